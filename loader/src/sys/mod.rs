//! What the loader asks of the operating system, one small module per
//! platform: address space, page protection, faults as signals, the bounds
//! of a thread's stack, and directories by descriptor. And what is asked of the processor: [`leaf_pair`].
//!
//! A platform module offers [`Dir`], [`effective_user`], [`page_size`], [`Reservation`], [`Region`], [`open_pages`], [`ImageFile`], [`Image`], [`protect_code`], [`protect_absent`], [`install`],
//! [`install_fault_handler`], [`Fault`], [`catches_faults`], [`promises_pages`] and [`thread_stack`].

#[cfg(target_os = "linux")]
mod dir;
#[cfg(target_os = "linux")]
mod image;
mod leaves;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod region;
#[cfg(target_os = "linux")]
mod reservation;
#[cfg(target_os = "linux")]
mod written;
#[cfg(target_os = "linux")]
pub(crate) use dir::{Dir, Facts, Kind, effective_user};
#[cfg(target_os = "linux")]
pub(crate) use image::{Image, ImageFile, ImageRun};
pub(crate) use leaves::leaf_pair;
#[cfg(target_os = "linux")]
use linux::file_size_limit;
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    Access, Fault, catches_faults, ensure_signal_stack, install, install_fault_handler, page_size,
    promises_pages, protect_absent, protect_code, thread_stack,
};
#[cfg(target_os = "linux")]
pub(crate) use region::Region;
#[cfg(target_os = "linux")]
pub(crate) use reservation::{Reservation, open_pages};

#[cfg(not(target_os = "linux"))]
compile_error!("cwasm-loader runs on Linux; another platform needs its own module in `sys`");
