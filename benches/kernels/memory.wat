;; `memory.grow`, by one page and by none, as often as the argument says. What it grew by is left alone, or written to: once, or
;; once in 4 KiB.
(module
  (memory (export "memory") 1)
  (func (export "grow_one") (param $n i32)
    (loop $more
      (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "grow_and_write") (param $n i32) (local $at i32)
    (loop $more
      (local.set $at (i32.mul (memory.grow (i32.const 1)) (i32.const 65536)))
      (i32.store (local.get $at) (local.get $n))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "grow_and_write_all") (param $n i32) (local $at i32) (local $end i32)
    (loop $more
      (local.set $at (i32.mul (memory.grow (i32.const 1)) (i32.const 65536)))
      (local.set $end (i32.add (local.get $at) (i32.const 65536)))
      (loop $page
        (i32.store (local.get $at) (local.get $n))
        (br_if $page
          (i32.ne (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (local.get $end))))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "grow_none") (param $n i32)
    (loop $more
      (drop (memory.grow (i32.const 0)))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "size") (param $n i32) (local $sum i32)
    (loop $more
      (local.set $sum (i32.add (local.get $sum) (memory.size)))
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.store (i32.const 0) (local.get $sum))))
