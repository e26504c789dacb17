//! Event files of TensorBoard: records of TFRecord (length, masked CRC-32C of it,
//! data, masked CRC-32C of it) that hold `tensorflow.Event` messages.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use trainer_core::LogRow;

use super::wire::{Message, masked_crc32c};
use super::{Ending, Log, hub_name, now, scalars};

/// An event file that is being written.
pub(super) struct TensorBoard {
    file: File,
}

impl TensorBoard {
    /// Begins a new file; a run that goes on after `steps_done` steps adds one, which
    /// takes back what the files before it say of later steps.
    pub(super) fn create(output: &Path, steps_done: usize) -> io::Result<Self> {
        let folder = output.join("runs");
        fs::create_dir_all(&folder)?;
        let seconds = now();
        // Another of this process in the same second has the next number.
        let number = fs::read_dir(&folder)?.count();
        let name = format!(
            "events.out.tfevents.{seconds:.0}.trainer.{}.{number}",
            std::process::id()
        );
        let mut board = Self {
            file: File::create_new(folder.join(name))?,
        };
        board.write(
            Message::default()
                .double(1, seconds)
                .text(3, "brain.Event:2"),
        )?;
        if steps_done > 0 {
            // A `SessionLog` of status START.
            let restart = Message::default().integer(1, 1);
            let event = Message::default()
                .double(1, seconds)
                .integer(2, steps_done as i64 + 1);
            board.write(event.message(7, &restart))?;
        }
        Ok(board)
    }

    fn write(&mut self, event: Message) -> io::Result<()> {
        self.file.write_all(&record(&event.bytes()))
    }
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [
        &length[..],
        &masked_crc32c(&length).to_le_bytes(),
        data,
        &masked_crc32c(data).to_le_bytes(),
    ]
    .concat()
}

impl Log for TensorBoard {
    fn row(&mut self, step: i64, row: &LogRow) -> io::Result<()> {
        let mut summary = Message::default();
        for (key, value) in scalars(row) {
            let value = Message::default()
                .text(1, &hub_name(key))
                .float(2, value as f32);
            summary = summary.message(1, &value);
        }
        let event = Message::default().double(1, now()).integer(2, step);
        self.write(event.message(5, &summary))
    }

    fn ended(&mut self, _ending: Ending) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::record;

    /// A record as TensorFlow writes it.
    #[test]
    fn records_are_those_of_tensorflow() {
        let bytes = record(b"abc");
        assert_eq!(bytes.len(), 8 + 4 + 3 + 4);
        assert_eq!(bytes[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[12..15], b"abc");
    }
}
