//! Request ids, one type for each side that chooses them.

/// A request id that the agent chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AgentId(pub u32);

/// A request id that the broker chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BrokerId(pub u32);

impl AgentId {
    /// Returns the id after this one; after the last id comes 0.
    pub fn next(self) -> AgentId {
        AgentId(self.0.wrapping_add(1))
    }
}

impl BrokerId {
    /// Returns the id after this one; after the last id comes 0.
    pub fn next(self) -> BrokerId {
        BrokerId(self.0.wrapping_add(1))
    }
}
