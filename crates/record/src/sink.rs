//! Where lines go, and what happens when it does not take them.
//!
//! A write that fails in the middle of a line is continued from the very byte where it stopped, so
//! that a disk that was full leaves no half line behind.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::line::Origin;

/// How long the reader of a pipe is waited for.
const READER_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked for meanwhile.
const READER_POLL: Duration = Duration::from_millis(10);

/// What lines are written to.
pub(crate) enum Sink {
    File(File),
    Writer(Box<dyn Write + Send>),
}

/// A sink with the bytes that it has not taken yet.
pub(crate) struct Output {
    sink: Sink,
    waiting: Vec<u8>,
    written: usize,
    /// What the latest line is numbered.
    seq: u64,
}

impl Output {
    pub(crate) fn new(sink: Sink) -> Output {
        Output {
            sink,
            waiting: Vec::new(),
            written: 0,
            seq: 0,
        }
    }

    /// Puts a line behind those that wait, and gives it its number: here lines have their order.
    pub(crate) fn add(&mut self, line: &[u8], origin: &Origin) {
        self.seq += 1;
        self.waiting.extend_from_slice(line);
        origin.end(&mut self.waiting, self.seq);
    }

    /// Leaves out the numbers of lines that were lost, so that a reader misses them.
    pub(crate) fn skip(&mut self, lines: u64) {
        self.seq += lines;
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// The sink's. What it did not take still waits, and the next call goes on there.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            let result = match &mut self.sink {
                Sink::File(file) => file.write(rest),
                Sink::Writer(writer) => writer.write(rest),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.waiting.clear();
        self.written = 0;
        if let Sink::Writer(writer) = &mut self.sink {
            writer.flush()?;
        }
        Ok(())
    }

    /// Gives up what waits. A line of which a part is in a regular file is taken back out, unless
    /// somebody else wrote to the file behind it.
    pub(crate) fn abandon(&mut self) {
        let line_start = self.waiting[..self.written]
            .iter()
            .rposition(|&b| b == b'\n');
        let part = &self.waiting[line_start.map_or(0, |at| at + 1)..self.written];
        if let Sink::File(file) = &mut self.sink
            && !part.is_empty()
        {
            // Best effort: the file could not be written, it may not be readable either.
            let _ = take_back(file, part);
        }
        self.waiting.clear();
        self.written = 0;
    }
}

fn take_back(file: &mut File, part: &[u8]) -> io::Result<()> {
    let metadata = file.metadata()?;
    let length = part.len() as u64;
    if !metadata.is_file() || metadata.len() < length {
        return Ok(());
    }
    let mut end = vec![0; part.len()];
    file.seek(SeekFrom::End(-i64::try_from(length).unwrap_or(i64::MAX)))?;
    file.read_exact(&mut end)?;
    if end == part {
        file.set_len(metadata.len() - length)?;
    }
    Ok(())
}

/// Opens a record file for appending, readable by its owner alone: it tells who asked for what.
///
/// A last line without an end (the machine stopped in the middle of it) gets one, so that the next
/// line is whole.
///
/// # Errors
/// Those of opening the file. A pipe, a terminal or `/dev/null` is as good as a file, but a pipe must
/// have a reader within a second.
pub fn open(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path).map(|found| found.file_type());
    let is_pipe = kind.as_ref().is_ok_and(FileTypeExt::is_fifo);
    let is_device = kind.as_ref().is_ok_and(FileTypeExt::is_char_device);
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    if is_pipe || is_device {
        // A pipe opened for reading as well would never tell us that its reader is gone.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        options.custom_flags(nonblocking);
        let file = if is_pipe {
            open_pipe(path, &options)?
        } else {
            options.open(path)?
        };
        // From now on the writer's thread may wait for a slow reader.
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        return Ok(file);
    }
    let mut file = options.read(true).open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// Opens a pipe; a reader that is just being started has a moment.
fn open_pipe(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let until = Instant::now() + READER_WAIT;
    loop {
        match options.open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {}
            result => return result,
        }
        if Instant::now() >= until {
            let kind = io::ErrorKind::NotConnected;
            return Err(io::Error::new(kind, "nobody reads this pipe"));
        }
        std::thread::sleep(READER_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_line_left_by_a_crash_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "{\"half").unwrap();
        let mut output = Output::new(Sink::File(open(&path).unwrap()));
        output.waiting.extend_from_slice(b"{}\n");
        output.write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"half\n{}\n");
    }

    #[test]
    fn a_record_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        open(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o077,
            0
        );
    }

    #[test]
    fn a_part_of_a_line_that_cannot_be_finished_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut output = Output::new(Sink::File(open(&path).unwrap()));
        output.waiting.extend_from_slice(b"{1}\n{22}\n");
        // As after a write that the disk took six bytes of.
        std::fs::write(&path, "{1}\n{2").unwrap();
        output.written = 6;
        output.abandon();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{1}\n");
        assert!(output.waiting.is_empty());
    }

    #[test]
    fn what_somebody_else_wrote_behind_is_not_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut output = Output::new(Sink::File(open(&path).unwrap()));
        output.waiting.extend_from_slice(b"{22}\n");
        std::fs::write(&path, "{2{other}\n").unwrap();
        output.written = 2;
        output.abandon();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{2{other}\n");
    }

    #[test]
    fn a_pipe_without_a_reader_is_refused_and_one_with_a_reader_gets_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let error = open(&path).unwrap_err();
        assert_eq!(error.to_string(), "nobody reads this pipe");
        // For both, so that this test does not wait for a writer either.
        let both = OpenOptions::new().read(true).write(true).open(&path);
        let mut reader = both.unwrap();
        let mut output = Output::new(Sink::File(open(&path).unwrap()));
        output.waiting.extend_from_slice(b"{}\n");
        output.write().unwrap();
        let mut line = [0; 3];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"{}\n");
    }

    #[test]
    fn dev_null_is_a_fine_place_for_records() {
        let mut output = Output::new(Sink::File(open(Path::new("/dev/null")).unwrap()));
        output.waiting.extend_from_slice(b"{}\n");
        output.write().unwrap();
    }
}
