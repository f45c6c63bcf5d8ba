#[test] fn f(){}
