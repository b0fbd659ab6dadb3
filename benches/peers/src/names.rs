//! The subjects by name.

use std::fmt;

use clap::ValueEnum;
use pktalloc::workload::Pattern;

use crate::calls::{Heaps, KeptCapacity};
use crate::cell::Cell;
use crate::foreign::{Foreign, Jemalloc, Malloc, Mimalloc, MimallocHeap, Rpmalloc, RpmallocHeap, Snmalloc, Tcmalloc};
use crate::native::{Bytes, Empty, Floor, Pktalloc, Pool, Rlsf};
use crate::subject::Subject;

/// A subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Name {
    /// pktalloc, default settings
    Pktalloc,
    /// pktalloc, whose capacities the program keeps, so that it calls `reallocate` only beyond them
    PktallocKept,
    /// The loop with two calls that do nothing
    Empty,
    /// The ring that can only do strict order
    Floor,
    /// The system's malloc
    Malloc,
    /// jemalloc, default settings
    Jemalloc,
    /// jemalloc, best settings
    JemallocBest,
    /// mimalloc, global functions
    Mimalloc,
    /// mimalloc, a first-class heap
    MimallocHeap,
    /// snmalloc
    Snmalloc,
    /// rpmalloc, global functions
    Rpmalloc,
    /// rpmalloc, a first-class heap
    RpmallocHeap,
    /// tcmalloc of gperftools, where it is installed
    Tcmalloc,
    /// rlsf, a TLSF
    Rlsf,
    /// A Vec pool as people write it by hand
    Pool,
    /// `BytesMut::with_capacity`
    Bytes,
}

/// What a subject's figures are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The allocator that the targets are about.
    Candidate,
    /// What the machine can do at best.
    Yardstick,
    /// A general allocator: targets compare with it.
    Peer,
    /// No allocator for blocks of any size: shown, but no target compares with it.
    Shown,
}

impl Name {
    pub(crate) fn role(self) -> Role {
        match self {
            Self::Pktalloc => Role::Candidate,
            Self::Empty | Self::Floor => Role::Yardstick,
            Self::PktallocKept | Self::Pool | Self::Bytes => Role::Shown,
            _ => Role::Peer,
        }
    }

    /// Whether the subject takes part: the floor can do strict order alone, and only calloc stands against a new
    /// allocator.
    pub(crate) fn takes_part(self, cell: &Cell) -> bool {
        match (self, cell) {
            (_, Cell::NewAndDrop) => matches!(self, Self::Pktalloc | Self::Malloc),
            // It differs in call traces alone.
            (Self::PktallocKept, _) => false,
            (Self::Floor, _) => matches!(cell.pattern(), Some(Pattern::Fifo | Pattern::Burst)),
            _ => true,
        }
    }

    /// What to add to the environment of the subject's process.
    pub(crate) fn environment(self) -> Option<(&'static str, &'static str)> {
        (self == Self::JemallocBest).then_some((Jemalloc::SETTINGS_VARIABLE, Jemalloc::BEST_SETTINGS))
    }

    /// Calls the visitor with the subject's type.
    pub(crate) fn visit<V: Visitor>(self, visitor: V) -> V::Output {
        match self {
            Self::Pktalloc | Self::PktallocKept => visitor.visit::<Pktalloc>(),
            Self::Empty => visitor.visit::<Empty>(),
            Self::Floor => visitor.visit::<Floor>(),
            Self::Malloc => visitor.visit::<Foreign<Malloc>>(),
            Self::Jemalloc | Self::JemallocBest => visitor.visit::<Foreign<Jemalloc>>(),
            Self::Mimalloc => visitor.visit::<Foreign<Mimalloc>>(),
            Self::MimallocHeap => visitor.visit::<Foreign<MimallocHeap>>(),
            Self::Snmalloc => visitor.visit::<Foreign<Snmalloc>>(),
            Self::Rpmalloc => visitor.visit::<Foreign<Rpmalloc>>(),
            Self::RpmallocHeap => visitor.visit::<Foreign<RpmallocHeap>>(),
            Self::Tcmalloc => visitor.visit::<Foreign<Tcmalloc>>(),
            Self::Rlsf => visitor.visit::<Rlsf>(),
            Self::Pool => visitor.visit::<Pool>(),
            Self::Bytes => visitor.visit::<Bytes>(),
        }
    }
}

impl Name {
    /// Calls the visitor with the subject's type, if it serves call traces.
    pub(crate) fn visit_heaps<V: HeapsVisitor>(self, visitor: V) -> Option<V::Output> {
        Some(match self {
            Self::Pktalloc => visitor.visit::<Pktalloc>(),
            Self::PktallocKept => visitor.visit::<KeptCapacity>(),
            Self::Empty => visitor.visit::<Empty>(),
            Self::Malloc => visitor.visit::<Foreign<Malloc>>(),
            Self::Jemalloc | Self::JemallocBest => visitor.visit::<Foreign<Jemalloc>>(),
            Self::Mimalloc => visitor.visit::<Foreign<Mimalloc>>(),
            Self::MimallocHeap => visitor.visit::<Foreign<MimallocHeap>>(),
            Self::Snmalloc => visitor.visit::<Foreign<Snmalloc>>(),
            Self::Rpmalloc => visitor.visit::<Foreign<Rpmalloc>>(),
            Self::RpmallocHeap => visitor.visit::<Foreign<RpmallocHeap>>(),
            Self::Tcmalloc => visitor.visit::<Foreign<Tcmalloc>>(),
            Self::Rlsf => visitor.visit::<Rlsf>(),
            Self::Floor | Self::Pool | Self::Bytes => return None,
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no subject is hidden");
        f.pad(value.get_name())
    }
}

/// Something to do with a subject's type.
pub(crate) trait Visitor {
    type Output;

    fn visit<S: Subject>(self) -> Self::Output;
}

/// The same for what serves call traces.
pub(crate) trait HeapsVisitor {
    type Output;

    fn visit<H: Heaps>(self) -> Self::Output;
}
