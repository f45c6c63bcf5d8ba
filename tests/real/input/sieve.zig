//! Prime numbers, sorted strings and a hash, in Zig without a C library.
const std = @import("std");

pub fn main() void {
    var composite: [2_000_000]bool = @splat(false);
    var count: u32 = 0;
    var last: usize = 0;
    var n: usize = 2;
    while (n < composite.len) : (n += 1) {
        if (composite[n]) continue;
        count += 1;
        last = n;
        if (n > composite.len / n) continue;
        var multiple = n * n;
        while (multiple < composite.len) : (multiple += n) composite[multiple] = true;
    }
    std.debug.print("{d} primes, the last is {d}\n", .{ count, last });
    var values: [1000]u32 = undefined;
    var state: u32 = 1;
    for (&values) |*value| {
        state = state *% 1664525 +% 1013904223;
        value.* = state;
    }
    std.mem.sort(u32, &values, {}, std.sort.asc(u32));
    var digest: [32]u8 = undefined;
    std.crypto.hash.sha2.Sha256.hash(std.mem.sliceAsBytes(&values), &digest, .{});
    std.debug.print("{x}\n", .{&digest});
}
