;; An interpreter of a machine with registers, whose loop has one branch by a table: what dispatch costs.
;; An instruction is a word: the operation, and three bytes a, b and c, of which the last two may be one number.
;; Registers are words from address 0 on, the program begins at 1024, its memory at 4096.
(module
  (import "bench" "start" (func $start))
  (import "bench" "end" (func $end))
  (memory (export "memory") 1)
  (data (i32.const 1024) "\09\01\00\00") ;; li 1, 0
  (data (i32.const 1028) "\09\02\e8\03") ;; li 2, 1000
  (data (i32.const 1032) "\09\05\e8\03") ;; li 5, 1000
  (data (i32.const 1036) "\03\02\02\05") ;; mul 2, 2, 5
  (data (i32.const 1040) "\09\03\39\30") ;; li 3, 12345
  (data (i32.const 1044) "\09\0a\00\00") ;; li 10, 0
  (data (i32.const 1048) "\09\0b\0d\00") ;; li 11, 13
  (data (i32.const 1052) "\09\0c\11\00") ;; li 12, 17
  (data (i32.const 1056) "\09\0d\05\00") ;; li 13, 5
  (data (i32.const 1060) "\09\07\3f\00") ;; li 7, 63
  (data (i32.const 1064) "\09\0e\01\00") ;; li 14, 1
  (data (i32.const 1068) "\09\0f\02\00") ;; li 15, 2
  (data (i32.const 1072) "\06\04\03\0b") ;; shl 4, 3, 11
  (data (i32.const 1076) "\04\03\03\04") ;; xor 3, 3, 4
  (data (i32.const 1080) "\07\04\03\0c") ;; shr 4, 3, 12
  (data (i32.const 1084) "\04\03\03\04") ;; xor 3, 3, 4
  (data (i32.const 1088) "\06\04\03\0d") ;; shl 4, 3, 13
  (data (i32.const 1092) "\04\03\03\04") ;; xor 3, 3, 4
  (data (i32.const 1096) "\05\06\03\07") ;; and 6, 3, 7
  (data (i32.const 1100) "\06\06\06\0f") ;; shl 6, 6, 15
  (data (i32.const 1104) "\0d\08\06\00") ;; load 8, 6, 0
  (data (i32.const 1108) "\01\08\08\03") ;; add 8, 8, 3
  (data (i32.const 1112) "\0e\08\06\00") ;; store 8, 6, 0
  (data (i32.const 1116) "\05\09\03\0e") ;; and 9, 3, 14
  (data (i32.const 1120) "\0b\09\02\00") ;; jz 9, 2
  (data (i32.const 1124) "\01\0a\0a\08") ;; add 10, 10, 8
  (data (i32.const 1128) "\0a\00\01\00") ;; jmp 0, 1
  (data (i32.const 1132) "\02\0a\0a\01") ;; sub 10, 10, 1
  (data (i32.const 1136) "\08\01\01\01") ;; addi 1, 1, 1
  (data (i32.const 1140) "\0c\01\02\ee") ;; jlt 1, 2, -18
  (data (i32.const 1144) "\00\00\00\00") ;; halt 0, 0, 0
  (func $run (param $pc i32) (result i32) (local $insn i32)
    (loop $next
      (local.set $insn (i32.load (local.get $pc)))
      (local.set $pc (i32.add (local.get $pc) (i32.const 4)))
      (block $mov (block $store (block $load (block $jlt (block $jz (block $jmp (block $li (block $addi (block $shr (block $shl (block $and (block $xor (block $mul (block $sub (block $add (block $halt
        (br_table $halt $add $sub $mul $xor $and $shl $shr $addi $li $jmp $jz $jlt $load $store $mov (i32.and (local.get $insn) (i32.const 255))))
      ;; halt: return r10
      (return (i32.load (i32.const 40)))
      (br $next))
      ;; add: a = b add c
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.add (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2)))
          (i32.load (i32.shl (i32.shr_u (local.get $insn) (i32.const 24)) (i32.const 2)))))
      (br $next))
      ;; sub: a = b sub c
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.sub (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2)))
          (i32.load (i32.shl (i32.shr_u (local.get $insn) (i32.const 24)) (i32.const 2)))))
      (br $next))
      ;; mul: a = b mul c
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.mul (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2)))
          (i32.load (i32.shl (i32.shr_u (local.get $insn) (i32.const 24)) (i32.const 2)))))
      (br $next))
      ;; xor: a = b xor c
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.xor (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2)))
          (i32.load (i32.shl (i32.shr_u (local.get $insn) (i32.const 24)) (i32.const 2)))))
      (br $next))
      ;; and: a = b and c
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.and (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2)))
          (i32.load (i32.shl (i32.shr_u (local.get $insn) (i32.const 24)) (i32.const 2)))))
      (br $next))
      ;; shl: a = b shl c
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.shl (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2)))
          (i32.load (i32.shl (i32.shr_u (local.get $insn) (i32.const 24)) (i32.const 2)))))
      (br $next))
      ;; shr: a = b shr c
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.shr_u (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2)))
          (i32.load (i32.shl (i32.shr_u (local.get $insn) (i32.const 24)) (i32.const 2)))))
      (br $next))
      ;; addi: a = b + c, a number
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.add (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2))) (i32.shr_s (local.get $insn) (i32.const 24))))
      (br $next))
      ;; li: a = imm16
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.shr_s (local.get $insn) (i32.const 16)))
      (br $next))
      ;; jmp: skip imm16
      (local.set $pc (i32.add (local.get $pc) (i32.shl (i32.shr_s (local.get $insn) (i32.const 16)) (i32.const 2))))
      (br $next))
      ;; jz: skip imm16 if a is zero
      (if (i32.eqz (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))))
        (then (local.set $pc (i32.add (local.get $pc) (i32.shl (i32.shr_s (local.get $insn) (i32.const 16)) (i32.const 2))))))
      (br $next))
      ;; jlt: skip c if a < b
      (if (i32.lt_s (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2)))
          (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2))))
        (then (local.set $pc (i32.add (local.get $pc) (i32.shl (i32.shr_s (local.get $insn) (i32.const 24)) (i32.const 2))))))
      (br $next))
      ;; load: a = [b + c]
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.load offset=4096 (i32.add (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2))) (i32.shr_s (local.get $insn) (i32.const 24)))))
      (br $next))
      ;; store: [b + c] = a
      (i32.store offset=4096 (i32.add (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2))) (i32.shr_s (local.get $insn) (i32.const 24)))
        (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))))
      (br $next))
      ;; mov: a = b
      (i32.store (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 8)) (i32.const 255)) (i32.const 2))
        (i32.load (i32.shl (i32.and (i32.shr_u (local.get $insn) (i32.const 16)) (i32.const 255)) (i32.const 2))))
      (br $next)
    )
    unreachable)
  (func (export "_start")
    (call $start)
    (if (i32.ne (call $run (i32.const 1024)) (i32.const -1927572630)) (then unreachable))
    (call $end)))
