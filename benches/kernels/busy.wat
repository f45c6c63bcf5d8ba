;; A program that computes for about a tenth of a second: primes below two million.
(module
  (memory (export "memory") 32)
  (func (export "_start") (local $p i32) (local $m i32)
    (local.set $p (i32.const 2))
    (loop $next
      (if (i32.eqz (i32.load8_u (local.get $p)))
        (then
          (local.set $m (i32.shl (local.get $p) (i32.const 1)))
          (block $done
            (loop $mark
              (br_if $done (i32.ge_u (local.get $m) (i32.const 2000000)))
              (i32.store8 (local.get $m) (i32.const 1))
              (local.set $m (i32.add (local.get $m) (local.get $p)))
              (br $mark)))))
      (local.set $p (i32.add (local.get $p) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $p) (i32.const 2000000))))
    (if (i32.load8_u (i32.const 1999993)) (then unreachable))))
