;; `memory.grow`, by one page and by none, as often as the argument says.
(module
  (memory (export "memory") 1)
  (func (export "grow_one") (param $n i32)
    (loop $more
      (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
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
