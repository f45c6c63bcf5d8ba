;; The bytes of a greeting, one at a time.
(module $greeting
  (memory 1)
  (data (i32.const 0) "Hello from wasm")
  (func (export "length") (result i32) (i32.const 15))
  (func (export "byte") (param $at i32) (result i32) (i32.load8_u (local.get $at))))
