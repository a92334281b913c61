//! The modules of the process with their rules, as the handler looks them up. Filled and replaced by the manager thread;
//! a handler sees one map or another, never a half-made one.

use super::rule::Rule;

/// One module's code, and where in it which rule holds.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    pub start: usize,
    pub end: usize,
    /// What to take off an address to have it as in the file.
    pub bias: usize,
    pub id: u32,
    /// Rising distances from `start`; from `starts[i]` to the next, `rules[i]` holds.
    pub starts: &'a [u32],
    /// Indices into [`Map::rules`].
    pub rules: &'a [u16],
}

#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// By rising, disjoint address ranges.
    pub modules: &'a [Code<'a>],
    pub rules: &'a [Rule],
    /// Where the interpreter's loop is, for a version that leaves no mark on the stack: (module, addresses in its file).
    pub eval: &'a [(u32, u64, u64)],
    /// Differs from that of every other map.
    pub generation: u64,
}

/// What a map says of an address.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub module: u32,
    /// The address as in the module's file; without a module, as in memory.
    pub address: u64,
    pub rule: u16,
}

/// Index of the rule for what is in no table.
pub const UNKNOWN: u16 = 0;

impl Map<'_> {
    #[must_use]
    pub fn find(&self, address: usize) -> Found {
        let nowhere = Found { module: 0, address: address as u64, rule: UNKNOWN };
        let after = self.modules.partition_point(|module| module.start <= address);
        let Some(module) = after.checked_sub(1).and_then(|index| self.modules.get(index)) else { return nowhere };
        if address >= module.end {
            return nowhere;
        }
        let distance = address.wrapping_sub(module.start);
        let after = module.starts.partition_point(|start| *start as usize <= distance);
        let rule = after.checked_sub(1).and_then(|index| module.rules.get(index)).copied().unwrap_or(UNKNOWN);
        Found { module: module.id, address: address.wrapping_sub(module.bias) as u64, rule }
    }

    #[inline(always)]
    #[must_use]
    pub fn rule(&self, index: u16) -> Rule {
        self.rules.get(usize::from(index)).copied().unwrap_or(Rule::Unknown)
    }

    #[must_use]
    pub fn is_eval(&self, module: u32, address: u64) -> bool {
        self.eval.iter().any(|(its, start, end)| *its == module && (*start..*end).contains(&address))
    }
}

/// Where one thread's recent stacks were: a program's next stack has mostly the same addresses.
#[derive(Debug)]
pub struct Cache {
    slots: [Slot; Self::SLOTS],
    generation: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// In memory; 0 in an empty slot.
    address: usize,
    in_file: u64,
    module: u32,
    rule: u16,
}

impl Cache {
    const SLOTS: usize = 512;
    const EMPTY: Slot = Slot { address: 0, in_file: 0, module: 0, rule: UNKNOWN };

    #[must_use]
    pub const fn new() -> Self {
        Self { slots: [Self::EMPTY; Self::SLOTS], generation: 0 }
    }

    /// Forgets what it knows if the map is another.
    pub fn renew(&mut self, map: &Map<'_>) {
        if self.generation != map.generation {
            self.slots = [Self::EMPTY; Self::SLOTS];
            self.generation = map.generation;
        }
    }

    #[inline(always)]
    pub fn find(&mut self, map: &Map<'_>, address: usize) -> Found {
        let Some(slot) = self.slots.get_mut((address ^ address >> 9) % Self::SLOTS) else { return map.find(address) };
        if slot.address != address || address == 0 {
            let found = map.find(address);
            *slot = Slot { address, in_file: found.address, module: found.module, rule: found.rule };
        }
        Found { module: slot.module, address: slot.in_file, rule: slot.rule }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}
