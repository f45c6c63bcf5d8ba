;; A small module of the kind that is instantiated per request: a memory with some data,
;; a table, globals, an import, exports.
(module
  (import "host" "log" (func $log (param i32 i32)))
  (type $handler (func (param i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "a greeting that is not long, and some more static data of the kind")
  (global $stack (mut i32) (i32.const 65536))
  (global $calls (mut i32) (i32.const 0))
  (table 4 4 funcref)
  (elem (i32.const 0) $a $b $c $d)
  (func $a (type $handler) (i32.add (local.get 0) (i32.const 1)))
  (func $b (type $handler) (i32.mul (local.get 0) (i32.const 3)))
  (func $c (type $handler) (i32.xor (local.get 0) (i32.const 5)))
  (func $d (type $handler) (call $log (local.get 0) (i32.const 7)) (local.get 0))
  (func (export "handle") (param i32) (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (i32.store (i32.const 2048) (local.get 0))
    (call_indirect (type $handler) (local.get 0) (i32.and (local.get 0) (i32.const 3)))))
