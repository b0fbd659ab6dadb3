//! A tunnel in the manner of WireGuard: packets are encrypted where they lie, a header goes in front and a tag behind,
//! and on the other side both come off again. Nothing is copied on the way.
//!
//! `cargo run --example tunnel`

use std::error::Error;

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use pktalloc::{Allocator, Packet, Space};

/// The type of the message, the receiver's index and a counter.
const HEADER: usize = 16;
const TAG: usize = 16;
/// The longest packet that the tunnel takes.
const MOST: usize = 1420;
/// What the device's packets have room for from the start.
const ROOM: Space = Space::new(MOST).headroom(HEADER).tailroom(TAG);

const DATA: u32 = 4;

struct Tunnel {
    cipher: ChaCha20Poly1305,
    index: u32,
    counter: u64,
}

impl Tunnel {
    fn new(key: [u8; 32]) -> Self {
        Self { cipher: ChaCha20Poly1305::new(&Key::from(key)), index: 7, counter: 0 }
    }

    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        nonce.into()
    }

    /// Makes a packet of the device's one for the wire.
    fn seal(&mut self, packet: &mut Packet<&Allocator>) -> Result<(), Box<dyn Error>> {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&DATA.to_le_bytes());
        header[4..8].copy_from_slice(&self.index.to_le_bytes());
        header[8..].copy_from_slice(&self.counter.to_le_bytes());
        let nonce = Self::nonce(self.counter);
        let tag = self.cipher.encrypt_in_place_detached(&nonce, &header, packet).map_err(|_| "cannot encrypt")?;
        self.counter += 1;
        packet.extend_from_slice(&tag)?;
        packet.prepend(&header)?;
        Ok(())
    }

    /// Makes a packet from the wire one for the device. What was not meant for it is an error, and the packet is to be
    /// dropped.
    fn open(&self, packet: &mut Packet<&Allocator>) -> Result<(), Box<dyn Error>> {
        let header: [u8; HEADER] = packet.first_chunk().copied().ok_or("shorter than a header")?;
        let counter = u64::from_le_bytes(header[8..].try_into()?);
        packet.advance(HEADER);
        let (_, tag) = packet.split_last_chunk::<TAG>().ok_or("shorter than a tag")?;
        let tag = Tag::from(*tag);
        packet.truncate(packet.len() - TAG);
        self.cipher
            .decrypt_in_place_detached(&Self::nonce(counter), &header, packet, &tag)
            .map_err(|_| "not from the other side")?;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let allocator = Allocator::new();
    let (mut here, there) = (Tunnel::new([3; 32]), Tunnel::new([3; 32]));
    let mut bytes = 0;
    for number in 0..20_000usize {
        let len = 40 + number * 37 % (MOST - 40);
        // As it comes from the device: the room is there before anybody knows how long the packet is.
        let (mut packet, ()) = allocator.packet_with(ROOM, |room| {
            room.zeroed()[..len].fill(number as u8);
            room.advance(len);
            Ok::<_, Box<dyn Error>>(())
        })?;
        let payload = packet.as_ptr();
        here.seal(&mut packet)?;
        assert_eq!((packet.len(), packet[HEADER..].as_ptr()), (HEADER + len + TAG, payload), "nothing moved");
        assert!(packet[HEADER..][..len] != vec![number as u8; len], "it is encrypted");
        bytes += packet.len();

        // As it comes from the wire.
        let mut received = packet;
        if number % 1000 == 0 {
            let mut forged = allocator.packet_from(&received)?;
            forged[HEADER + 5] ^= 1;
            assert!(there.open(&mut forged).is_err(), "what was changed on the way is noticed");
        }
        there.open(&mut received)?;
        assert_eq!((received.len(), received.as_ptr()), (len, payload), "nothing moved");
        assert!(received.iter().all(|&byte| byte == number as u8));
    }
    assert_eq!(allocator.used_bytes(), 0);
    println!("20,000 packets through the tunnel, {bytes} bytes on the wire, none of them copied");
    Ok(())
}
