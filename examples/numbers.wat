;; A starter: number theory, to be called from the command line.
;;
;;   cwasm run examples/numbers.wat --invoke gcd 1071 462
;;   cwasm run examples/numbers.wat --invoke is_prime 2147483647
(module $numbers
  ;; The greatest common divisor, by Euclid.
  (func $gcd (export "gcd") (param $a i64) (param $b i64) (result i64)
    (local $rest i64)
    (loop $again
      (if (i64.ne (local.get $b) (i64.const 0))
        (then
          (local.set $rest (i64.rem_u (local.get $a) (local.get $b)))
          (local.set $a (local.get $b))
          (local.set $b (local.get $rest))
          (br $again))))
    (local.get $a))

  ;; Whether a number is prime, by trial division: 1 or 0.
  (func $is_prime (export "is_prime") (param $n i64) (result i32)
    (local $d i64)
    (if (i64.lt_u (local.get $n) (i64.const 2)) (then (return (i32.const 0))))
    (local.set $d (i64.const 2))
    (loop $next
      (if (i64.gt_u (i64.mul (local.get $d) (local.get $d)) (local.get $n))
        (then (return (i32.const 1))))
      (if (i64.eqz (i64.rem_u (local.get $n) (local.get $d)))
        (then (return (i32.const 0))))
      (local.set $d (i64.add (local.get $d) (i64.const 1)))
      (br $next))
    (unreachable))

  ;; The n-th Fibonacci number, modulo 2^64.
  (func $fibonacci (export "fibonacci") (param $n i32) (result i64)
    (local $a i64) (local $b i64)
    (local.set $b (i64.const 1))
    (loop $next
      (if (local.get $n)
        (then
          ;; (a, b) becomes (b, a + b): the stack swaps them.
          (local.get $b)
          (i64.add (local.get $a) (local.get $b))
          (local.set $b)
          (local.set $a)
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (br $next))))
    (local.get $a)))
