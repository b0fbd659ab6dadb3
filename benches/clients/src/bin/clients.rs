//! All clients, everything but pktalloc's packets from the system's malloc.

fn main() -> std::process::ExitCode {
    clients::main()
}
