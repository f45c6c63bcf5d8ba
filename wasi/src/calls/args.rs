//! Arguments and environment: lists of strings that the guest copies out.

use super::Call;
use crate::ctx::StringList;
use crate::guest::GuestMemory;
use crate::types::Errno;

impl Call<'_> {
    /// Writes the argument strings to `argv_buf` and pointers to them to `argv`.
    pub fn args_get(&mut self, argv: u32, argv_buf: u32) -> Result<(), Errno> {
        get(&mut self.memory, &self.ctx.args, argv, argv_buf)
    }

    /// Writes how many arguments there are and how many bytes they take.
    pub fn args_sizes_get(&mut self, argc: u32, argv_buf_size: u32) -> Result<(), Errno> {
        sizes(&mut self.memory, &self.ctx.args, argc, argv_buf_size)
    }

    /// Writes the environment strings to `environ_buf` and pointers to them to
    /// `environ`.
    pub fn environ_get(&mut self, environ: u32, environ_buf: u32) -> Result<(), Errno> {
        get(&mut self.memory, &self.ctx.environment, environ, environ_buf)
    }

    /// Writes how many environment variables there are and how many bytes they
    /// take.
    pub fn environ_sizes_get(&mut self, count: u32, buf_size: u32) -> Result<(), Errno> {
        sizes(&mut self.memory, &self.ctx.environment, count, buf_size)
    }
}

fn get(
    memory: &mut GuestMemory<'_>,
    list: &StringList,
    pointers: u32,
    buffer: u32,
) -> Result<(), Errno> {
    memory.write(buffer, &list.bytes)?;
    // No string begins after the memory's last byte, where 4 GiB end.
    let all = list.offsets.iter().flat_map(|offset| buffer.wrapping_add(*offset).to_le_bytes());
    memory.write(pointers, &all.collect::<Vec<_>>())
}

fn sizes(
    memory: &mut GuestMemory<'_>,
    list: &StringList,
    count: u32,
    bytes: u32,
) -> Result<(), Errno> {
    memory.write_size(count, list.offsets.len())?;
    memory.write_size(bytes, list.bytes.len())
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{Guest, OUT};
    use crate::types::Errno;

    #[test]
    fn strings_and_pointers_are_written() {
        let mut guest = Guest::with(|builder, _| {
            builder.args(["prog", "x y"]).env("A", "1");
        });
        guest.call().args_sizes_get(OUT, OUT + 4).unwrap();
        assert_eq!((guest.u32_at(OUT), guest.u32_at(OUT + 4)), (2, 9));
        guest.call().args_get(100, 200).unwrap();
        assert_eq!((guest.u32_at(100), guest.u32_at(104)), (200, 205));
        assert_eq!(guest.bytes(200, 9), b"prog\0x y\0");
        guest.call().environ_sizes_get(OUT, OUT + 4).unwrap();
        assert_eq!((guest.u32_at(OUT), guest.u32_at(OUT + 4)), (1, 4));
        guest.call().environ_get(100, 200).unwrap();
        assert_eq!(guest.bytes(200, 4), b"A=1\0");
    }

    #[test]
    fn strings_that_do_not_fit_are_a_fault() {
        let mut guest = Guest::with(|builder, _| {
            builder.arg("prog");
        });
        assert_eq!(guest.call().args_get(0, 65536 - 4), Err(Errno::Fault));
        assert_eq!(guest.call().args_get(65536 - 3, 0), Err(Errno::Fault));
        assert_eq!(guest.call().args_sizes_get(u32::MAX, 0), Err(Errno::Fault));
    }
}
