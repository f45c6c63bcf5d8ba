//! What is measured, a file per subject. Each adds its rows to the report.

pub mod calls;
pub mod compile;
pub mod instantiate;
pub mod load;
pub mod memory;
pub mod others;
pub mod process;
pub mod programs;
