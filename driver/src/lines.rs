//! One event, one line of the log: what others wrote in it neither begins a line nor steers a terminal.

use std::io::{self, Write};

use wgnet_proto::text::printable;

/// Where events are written, each with a single `write` as the formatter does.
pub struct Lines<W>(pub W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        let mut shown = printable(&String::from_utf8_lossy(line)).into_owned();
        shown.push('\n');
        self.0.write_all(shown.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_hostile_name_stays_in_its_line() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || Lines(writer.clone()))
            .finish();
        let name = "h1\n2026-11-21T00:00:00Z  INFO forged\r\u{1b}[2J\u{9b}2J";
        let error = io::Error::other(name);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(name, shown = %name, %error, "It says {name}");
            tracing::info!("The next event");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains("h1\\n2026"), "{text}");
    }
}
