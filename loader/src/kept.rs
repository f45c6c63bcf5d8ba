//! The host functions that a store keeps alive: one share of each, however many instances import it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::func::KeepAlive;

/// As long as there are so few, to look at each is quicker than to hash, and allocates nothing.
const FEW: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct KeptFuncs<'code> {
    shares: Vec<Arc<dyn KeepAlive + 'code>>,
    /// Where they are, once there are more than a few. Nothing else can be there while they are kept.
    addresses: HashSet<usize>,
}

impl<'code> KeptFuncs<'code> {
    /// Takes a share of a function the first time. Whether it was the first.
    pub(crate) fn insert(&mut self, func: &Arc<dyn KeepAlive + 'code>) -> bool {
        let address = |func: &Arc<dyn KeepAlive + 'code>| Arc::as_ptr(func).addr();
        let first = if self.shares.len() < FEW {
            self.shares.iter().all(|kept| address(kept) != address(func))
        } else {
            if self.addresses.is_empty() {
                self.addresses.extend(self.shares.iter().map(address));
            }
            self.addresses.insert(address(func))
        };
        if first {
            self.shares.push(Arc::clone(func));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::func::{Caller, IntoHostFunc};

    #[test]
    fn one_share_is_taken_of_few_and_of_many() {
        for count in [1, FEW - 1, FEW, FEW + 1, 10 * FEW] {
            let func = |number| move |_: Caller<'_, '_, ()>| -> i64 { number };
            let funcs: Vec<Arc<dyn KeepAlive>> =
                (0..).map(|number| func(number).into_host_func()).take(count).collect();
            let mut kept = KeptFuncs::default();
            for round in 0..3 {
                for func in &funcs {
                    assert_eq!(kept.insert(func), round == 0);
                }
            }
            assert_eq!(kept.shares.len(), count);
            assert!(funcs.iter().all(|func| Arc::strong_count(func) == 2));
            drop(kept);
            assert!(funcs.iter().all(|func| Arc::strong_count(func) == 1));
        }
    }
}
