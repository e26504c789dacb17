//! The terminal: raw keys through `stty`, output as ANSI sequences.
//!
//! Invariant: however the run ends, by its end, an error or a signal, the
//! terminal is given back as it was found, once.

use std::io::{self, IsTerminal, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Weak};

use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What the key thread and the drawing share.
#[derive(Debug)]
struct Shared {
    closed: AtomicBool,
    /// Held while something is written, so that nothing is drawn after the end.
    writing: Mutex<()>,
    columns: AtomicU16,
    rows: AtomicU16,
    /// The settings to give back.
    saved: String,
}

impl Shared {
    fn measure(&self) {
        let size = stty(&["size"]).unwrap_or_default();
        let mut numbers = size.split_whitespace().filter_map(|it| it.parse().ok());
        if let (Some(rows), Some(columns)) = (numbers.next(), numbers.next()) {
            self.rows.store(rows, Ordering::Relaxed);
            self.columns.store(columns, Ordering::Relaxed);
        }
    }

    fn close(&self) {
        let _writing = self.writing.lock();
        self.restore();
    }

    /// Gives the terminal back, even in the middle of a drawing.
    fn restore(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            // Shows the cursor and leaves the second screen.
            let _ = write_all(b"\x1b[0m\x1b[?25h\x1b[?1049l");
            let _ = stty(&[&self.saved]);
        }
    }
}

/// The terminal that is drawn on, for an end in which nothing is dropped.
static OPEN: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

/// Gives the terminal back if it is taken, from any thread.
pub(crate) fn give_back() {
    let shared = match OPEN.try_lock() {
        Ok(open) => open.upgrade(),
        Err(_) => None,
    };
    if let Some(shared) = shared {
        shared.restore();
    }
}

/// A terminal that is drawn on.
#[derive(Debug)]
pub(super) struct Screen {
    shared: Arc<Shared>,
    buffer: Vec<u8>,
}

/// Runs `stty` on the terminal of this process.
fn stty(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

fn write_all(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Whether there is a terminal to draw on and to read keys from.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

impl Screen {
    /// Takes the terminal; keys come through the receiver.
    pub(super) fn open() -> io::Result<(Self, Receiver<u8>)> {
        let shared = Arc::new(Shared {
            closed: AtomicBool::new(false),
            writing: Mutex::new(()),
            columns: AtomicU16::new(80),
            rows: AtomicU16::new(24),
            saved: stty(&["-g"])?,
        });
        shared.measure();
        if let Ok(mut open) = OPEN.lock() {
            *open = Arc::downgrade(&shared);
        }
        // Keys as they are typed; a read ends after a tenth of a second. Signals
        // stay on, so that Ctrl-C stops the run as it does elsewhere.
        stty(&["-icanon", "-echo", "min", "0", "time", "1"])?;
        write_all(b"\x1b[?1049h\x1b[?25l\x1b[2J")?;
        let signalled = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&signalled))?;
        }
        let (sender, keys) = channel();
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut reads = 0_u32;
            while !own.closed.load(Ordering::Relaxed) {
                if signalled.load(Ordering::Relaxed) {
                    own.close();
                    eprintln!(
                        "finishing the step, then writing a checkpoint; once more to end now"
                    );
                    return;
                }
                let mut key = [0];
                if matches!(io::stdin().read(&mut key), Ok(1)) && sender.send(key[0]).is_err() {
                    return;
                }
                reads = reads.wrapping_add(1);
                if reads.is_multiple_of(10) {
                    own.measure();
                }
            }
        });
        let screen = Self {
            shared,
            buffer: Vec::new(),
        };
        Ok((screen, keys))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// The number of a colour in the sequences `3x` and `4x`.
fn code(color: Color) -> u8 {
    match color {
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray | Color::White => 7,
        _ => 9,
    }
}

impl Backend for Screen {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let out = &mut self.buffer;
        let mut next = None;
        let mut style = None;
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                write!(out, "\x1b[{};{}H", y + 1, x + 1)?;
            }
            next = Some((x + 1, y));
            if style != Some((cell.fg, cell.bg, cell.modifier)) {
                write!(out, "\x1b[0;3{};4{}m", code(cell.fg), code(cell.bg))?;
                for (modifier, number) in [
                    (Modifier::BOLD, 1),
                    (Modifier::DIM, 2),
                    (Modifier::REVERSED, 7),
                ] {
                    if cell.modifier.contains(modifier) {
                        write!(out, "\x1b[{number}m")?;
                    }
                }
                style = Some((cell.fg, cell.bg, cell.modifier));
            }
            out.extend(cell.symbol().as_bytes());
        }
        out.extend(b"\x1b[0m");
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        write!(self.buffer, "\x1b[{};{}H", y + 1, x + 1)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.buffer.extend(b"\x1b[2J");
        Ok(())
    }

    fn clear_region(&mut self, _clear_type: ClearType) -> io::Result<()> {
        self.clear()
    }

    fn size(&self) -> io::Result<Size> {
        Ok(Size {
            width: self.shared.columns.load(Ordering::Relaxed),
            height: self.shared.rows.load(Ordering::Relaxed),
        })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize {
            columns_rows: self.size()?,
            pixels: Size::default(),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.buffer);
        let _writing = self.shared.writing.lock();
        if self.shared.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        write_all(&bytes)
    }
}
