;; Calls of every kind. Loops take how often to call.
(module
  (import "host" "nothing" (func $host_nothing))
  (import "host" "add" (func $host_add (param i32 i32) (result i32)))
  (import "host" "count" (func $host_count))
  (type $unary (func (param i32) (result i32)))
  (memory (export "memory") 1)
  (table $one funcref (elem $f0))
  (table $four funcref (elem $f0 $f1 $f2 $f3))

  (func (export "nothing"))
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))

  (func (export "wasm_to_nothing") (param $n i32)
    (loop $more
      (call $host_nothing)
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "wasm_to_add") (param $n i32) (local $sum i32)
    (loop $more
      (local.set $sum (call $host_add (local.get $sum) (local.get $n)))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "wasm_to_count") (param $n i32)
    (loop $more
      (call $host_count)
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))

  ;; Recursion that never happens keeps a compiler from inlining these.
  (func $f0 (type $unary)
    (if (i32.eq (local.get 0) (i32.const -1)) (then (return (call $f0 (local.get 0)))))
    (i32.add (local.get 0) (i32.const 3)))
  (func $f1 (type $unary)
    (if (i32.eq (local.get 0) (i32.const -1)) (then (return (call $f1 (local.get 0)))))
    (i32.add (local.get 0) (i32.const 5)))
  (func $f2 (type $unary)
    (if (i32.eq (local.get 0) (i32.const -1)) (then (return (call $f2 (local.get 0)))))
    (i32.add (local.get 0) (i32.const 7)))
  (func $f3 (type $unary)
    (if (i32.eq (local.get 0) (i32.const -1)) (then (return (call $f3 (local.get 0)))))
    (i32.add (local.get 0) (i32.const 9)))

  (func (export "direct") (param $n i32) (local $x i32)
    (loop $more
      (local.set $x (call $f0 (local.get $x)))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.store (i32.const 0) (local.get $x)))
  (func (export "indirect_one") (param $n i32) (local $x i32)
    (loop $more
      (local.set $x (call_indirect $one (type $unary) (local.get $x) (i32.const 0)))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.store (i32.const 0) (local.get $x)))
  (func (export "indirect_four") (param $n i32) (local $x i32)
    (loop $more
      (local.set $x
        (call_indirect $four (type $unary)
          (local.get $x) (i32.and (local.get $n) (i32.const 3))))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.store (i32.const 0) (local.get $x)))

  (func (export "unreachable") unreachable)
  (func (export "outside") (drop (i32.load (i32.const 0x7fff0000)))))
