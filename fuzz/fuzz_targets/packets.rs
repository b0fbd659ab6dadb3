#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pktalloc_fuzz::packets::run(bytes);
    pktalloc_fuzz::room::run(bytes);
});
