;; The body of `__multi3`, as rustc compiles it.
local.get 0
  local.get 3  i64.const 0xffffffff  i64.and  local.tee 5
  local.get 1  i64.const 0xffffffff  i64.and  local.tee 6  i64.mul  local.tee 7
  local.get 3  i64.const 32  i64.shr_u  local.tee 8  local.get 6  i64.mul  local.tee 6
  local.get 5  local.get 1  i64.const 32  i64.shr_u  local.tee 9  i64.mul  i64.add  local.tee 5
  i64.const 32  i64.shl  i64.add  local.tee 10
i64.store
local.get 0
  local.get 8  local.get 9  i64.mul
  local.get 5  local.get 6  i64.lt_u  i64.extend_i32_u  i64.const 32  i64.shl
  local.get 5  i64.const 32  i64.shr_u  i64.or  i64.add
  local.get 10  local.get 7  i64.lt_u  i64.extend_i32_u  i64.add
  local.get 4  local.get 1  i64.mul  local.get 3  local.get 2  i64.mul  i64.add  i64.add
i64.store offset=8
