//! What the replay reads, what it makes of it, and what it says about what it cannot read.

mod bounds;
mod calls;
mod captures;
mod compressed;
mod damage;
mod ends;
mod files;
mod plans;
mod runs;
mod support;
mod text;
