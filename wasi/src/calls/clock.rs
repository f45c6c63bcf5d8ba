//! The clocks.

use super::Call;
use crate::stdio::lock;
use crate::types::{ClockId, Errno};

impl Call<'_> {
    /// Writes the smallest step of a clock, in nanoseconds.
    pub fn clock_res_get(&mut self, id: u32, resolution: u32) -> Result<(), Errno> {
        let step = lock(&self.ctx.clocks).resolution(ClockId::from_guest(id)?)?;
        self.memory.write_u64(resolution, step)
    }

    /// Writes the time of a clock, in nanoseconds. The precision that the guest
    /// asks for is a lag it would accept; there is none.
    pub fn clock_time_get(&mut self, id: u32, _precision: u64, time: u32) -> Result<(), Errno> {
        let now = lock(&self.ctx.clocks).time(ClockId::from_guest(id)?)?;
        self.memory.write_u64(time, now)
    }
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{Guest, OUT};
    use crate::types::Errno;

    #[test]
    fn every_clock_runs_and_others_do_not_exist() {
        let mut guest = Guest::new();
        for id in 0..4 {
            guest.call().clock_time_get(id, 0, OUT).unwrap();
            assert_ne!(guest.u64_at(OUT), 0);
            guest.call().clock_res_get(id, OUT).unwrap();
            assert_ne!(guest.u64_at(OUT), 0);
        }
        assert_eq!(guest.call().clock_time_get(4, 0, OUT), Err(Errno::Inval));
        assert_eq!(guest.call().clock_res_get(u32::MAX, OUT), Err(Errno::Inval));
        assert_eq!(guest.call().clock_time_get(0, 0, 65536 - 7), Err(Errno::Fault));
    }
}
