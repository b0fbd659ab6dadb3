//! Packets in text: `dt_us,size`, with lifetimes if they are known.

use super::error::Error;
use super::packet::{Lifetime, MAX_PACKET_BYTES, Packet, Packets};
use super::table::Table;

const NANOSECONDS_PER_MICROSECOND: u64 = 1_000;

/// Whether these columns are packets.
pub(super) fn are_packets(columns: &str) -> bool {
    matches!(columns, "dt_us,size" | "dt_us,size,life_us" | "dt_us,size,life_us,kind")
}

/// Reads the packets of a table that has their columns; times count from 0.
pub(super) fn read(mut table: Table<'_, '_>) -> Result<Packets, Error> {
    let sizes = format!("0 to {MAX_PACKET_BYTES} bytes");
    let mut packets = Packets::default();
    let mut clock = 0;
    while let Some(row) = table.next()? {
        clock = row.advance(clock, "dt_us", NANOSECONDS_PER_MICROSECOND)?;
        let recorded = match row.text(2) {
            b"-1" => Lifetime::Unrecorded,
            _ if !row.has(2) => Lifetime::Unrecorded,
            _ => {
                let micros = row.number(2, "life_us", 0, u64::MAX / NANOSECONDS_PER_MICROSECOND, "-1 or more")?;
                Lifetime::Nanoseconds(micros * NANOSECONDS_PER_MICROSECOND)
            }
        };
        let lifetime = match row.text(3) {
            b"A" | b"L" => recorded,
            _ if !row.has(3) => recorded,
            b"N" => Lifetime::Forever,
            _ => return Err(row.fault(3, "kind", "A (acknowledged), L (lost), N (never freed)")),
        };
        let size = row.number(1, "size", 0, u64::from(MAX_PACKET_BYTES), &sizes)?;
        packets.push(Packet::new(clock, u32::try_from(size).expect("checked against the limit"), lifetime))?;
    }
    Ok(packets)
}
