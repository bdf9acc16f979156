//! Files below the agent's own directories, reached through a directory handle.
//!
//! The agent runs as root, and guests' disks are handed to another user. So no path is ever walked twice: a directory is opened once, and
//! everything in it is named by one path component, resolved by the kernel beneath that handle and without following links (`openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, <https://man7.org/linux/man-pages/man2/openat2.2.html>). What is opened is a regular file or a
//! directory, or it is refused. Nothing here knows what the files mean.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

#[cfg(test)]
pub(crate) mod silent_mount;
#[cfg(test)]
mod tests;

/// Mode of a directory that QEMU's user must be able to pass through, but not list.
pub const PASSABLE_DIRECTORY_MODE: u32 = 0o711;

/// Suffix of a file that [`Directory::write_atomically`] has not finished. Whoever sweeps a directory may delete it.
pub const UNFINISHED_SUFFIX: &str = ".unfinished";

/// A file operation that failed, and on what.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct FileError {
    /// What was tried, as a verb: `create`, `write`, `rename`.
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.into(), source: source.into() }
    }

    /// Whether the file system, or the quota on it, is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the file is not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its kind.
    pub kind: EntryKind,
    /// Number of the file system that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Length of a file.
    pub bytes: u64,
    /// Number of the device that it stands for.
    pub special: u64,
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A block device.
    BlockDevice,
    /// Anything else, by name.
    Other(&'static str),
}

impl Entry {
    fn of(handle: impl AsFd) -> io::Result<Self> {
        let stat = fstat(handle)?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => EntryKind::File,
            SFlag::S_IFDIR => EntryKind::Directory,
            SFlag::S_IFBLK => EntryKind::BlockDevice,
            SFlag::S_IFCHR => EntryKind::Other("a character device"),
            SFlag::S_IFIFO => EntryKind::Other("a fifo"),
            SFlag::S_IFSOCK => EntryKind::Other("a socket"),
            _ => EntryKind::Other("a special file"),
        };
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Self { kind, device: stat.st_dev, inode: stat.st_ino, bytes, special: stat.st_rdev })
    }
}

impl EntryKind {
    /// The kind in words, with its article.
    pub fn describe(self) -> &'static str {
        match self {
            Self::File => "a regular file",
            Self::Directory => "a directory",
            Self::BlockDevice => "a block device",
            Self::Other(name) => name,
        }
    }
}

/// What `path` is: an operator's choice that was resolved.
///
/// # Errors
/// If it is not there, or is a link.
pub fn entry_of(path: &Path) -> Result<Entry, FileError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let handle = nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| FileError::new("open", path, e))?;
    Entry::of(&handle).map_err(|e| FileError::new("look at", path, e))
}

/// An open directory, and the path by which others (libvirt, QEMU) reach it.
#[derive(Debug)]
pub struct Directory {
    handle: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens `path`, an operator's choice, whose own links are followed; makes it, and what is missing above it, with mode 0711.
    /// The path kept is absolute and without links.
    ///
    /// # Errors
    /// If it cannot be made or opened, or is no directory.
    pub fn open_or_create_root(path: &Path) -> Result<Self, FileError> {
        if !path.exists() {
            std::fs::create_dir_all(path).map_err(|e| FileError::new("create", path, e))?;
            std::fs::set_permissions(path, Permissions::from_mode(PASSABLE_DIRECTORY_MODE))
                .map_err(|e| FileError::new("set the mode of", path, e))?;
        }
        Self::open_root(path)
    }

    /// Opens `path`, an operator's choice, whose own links are followed. The path kept is absolute and without links.
    ///
    /// # Errors
    /// If it does not exist, cannot be opened, or is no directory.
    pub fn open_root(path: &Path) -> Result<Self, FileError> {
        let absolute = path.canonicalize().map_err(|e| FileError::new("open", path, e))?;
        let handle = nix::fcntl::open(&absolute, directory_flags(), Mode::empty())
            .map_err(|e| FileError::new("open", &absolute, e))?;
        Ok(Self { handle, path: absolute })
    }

    /// The absolute path of this directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The absolute path of the entry `name`.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the directory `name` in this one.
    ///
    /// # Errors
    /// If there is none, or it is a link or a file.
    pub fn subdirectory(&self, name: &str) -> Result<Self, FileError> {
        let handle = self.open_beneath(name, directory_flags(), Mode::empty())?;
        Ok(Self { handle, path: self.path_of(name) })
    }

    /// Opens the directory `name` in this one; makes it first if there is none, with mode 0711 whatever the umask is.
    ///
    /// # Errors
    /// If it cannot be made, or is a link or a file.
    pub fn subdirectory_or_create(&self, name: &str) -> Result<Self, FileError> {
        let made = match mkdirat(&self.handle, component(self, name)?, Mode::S_IRWXU) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(e) => return Err(FileError::new("create", self.path_of(name), e)),
        };
        let directory = self.subdirectory(name)?;
        if made {
            let file = File::from(directory.duplicate()?);
            file.set_permissions(Permissions::from_mode(PASSABLE_DIRECTORY_MODE))
                .map_err(|e| FileError::new("set the mode of", directory.path(), e))?;
        }
        Ok(directory)
    }

    /// Opens the regular file `name` for reading.
    ///
    /// # Errors
    /// If there is none, or it is anything but a regular file.
    pub fn open_file(&self, name: &str) -> Result<File, FileError> {
        // O_NONBLOCK: opening a fifo must not wait for a writer before it is refused.
        self.open_regular(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())
    }

    /// Opens the file `name` for locking; makes it, empty and with mode 0600, if there is none.
    ///
    /// # Errors
    /// If it cannot be made, or is anything but a regular file.
    pub fn open_or_create_file(&self, name: &str) -> Result<File, FileError> {
        self.open_regular(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NONBLOCK, Mode::S_IRUSR | Mode::S_IWUSR)
    }

    /// Makes the file `name` for reading and writing, with mode 0600.
    ///
    /// # Errors
    /// If something of that name exists, or it cannot be made.
    pub fn create_file(&self, name: &str) -> Result<File, FileError> {
        self.open_regular(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, Mode::S_IRUSR | Mode::S_IWUSR)
    }

    /// The content of the file `name`; none if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read, is no regular file, or is longer than `limit_bytes`.
    pub fn read_if_exists(&self, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, FileError> {
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.take(limit_bytes + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| FileError::new("read", self.path_of(name), e))?;
        if bytes.len() as u64 > limit_bytes {
            let why = io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit_bytes} bytes"));
            return Err(FileError::new("read", self.path_of(name), why));
        }
        Ok(Some(bytes))
    }

    /// Writes the file `name` so that after a crash it holds either what it held before or all of `bytes`. Mode 0600.
    /// The new name survives a power cut after [`Directory::sync`].
    ///
    /// # Errors
    /// If it cannot be written; the old content stays then.
    pub fn write_atomically(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let unfinished = format!("{name}{UNFINISHED_SUFFIX}");
        self.remove_file_if_exists(&unfinished)?;
        let write = || {
            let mut file = self.create_file(&unfinished)?;
            file.write_all(bytes).map_err(|e| FileError::new("write", self.path_of(name), e))?;
            file.sync_data().map_err(|e| FileError::new("write", self.path_of(name), e))?;
            self.rename(&unfinished, self, name)
        };
        write().inspect_err(|_| {
            // The first error is the one to tell; what stays behind is swept by its suffix.
            let _ = self.remove_file_if_exists(&unfinished);
        })
    }

    /// Renames the entry `from` of this directory to `to` in `target`, replacing a file there.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), FileError> {
        renameat(&self.handle, component(self, from)?, &target.handle, component(target, to)?)
            .map_err(|e| FileError::new("rename to", target.path_of(to), e))
    }

    /// Removes the file or link `name`; says whether there was one.
    ///
    /// # Errors
    /// If it cannot be removed, or is a directory.
    pub fn remove_file_if_exists(&self, name: &str) -> Result<bool, FileError> {
        match unlinkat(&self.handle, component(self, name)?, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(FileError::new("remove", self.path_of(name), e)),
        }
    }

    /// Removes the directory `name` and the files and links in it, none of which it follows; says whether there was one.
    /// Directories of ours hold no directories: one inside is an error, and stays.
    ///
    /// # Errors
    /// If anything in it cannot be removed. What could be removed is gone.
    pub fn remove_directory_if_exists(&self, name: &str) -> Result<bool, FileError> {
        let directory = match self.subdirectory(name) {
            Ok(directory) => directory,
            Err(e) if e.is_not_found() => return Ok(false),
            Err(e) => return Err(e),
        };
        for entry in directory.names()? {
            directory.remove_file_if_exists(&entry)?;
        }
        unlinkat(&self.handle, component(self, name)?, UnlinkatFlags::RemoveDir)
            .map_err(|e| FileError::new("remove", directory.path(), e))?;
        Ok(true)
    }

    /// What the entry `name` is, without opening it: neither a fifo nor a device is touched.
    ///
    /// # Errors
    /// If there is none, or it is a link.
    pub fn entry(&self, name: &str) -> Result<Entry, FileError> {
        let handle = self.open_beneath(name, OFlag::O_PATH, Mode::empty())?;
        Entry::of(&handle).map_err(|e| FileError::new("look at", self.path_of(name), e))
    }

    /// The names in this directory, sorted, without `.` and `..`. Names that are not UTF-8 are not ours and are left out.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>, FileError> {
        let fail = |e: Errno| FileError::new("list", &self.path, e);
        // A fresh description of the directory: a duplicate would share, and move, one read position.
        let fresh =
            openat2(&self.handle, ".", OpenHow::new().flags(directory_flags()).resolve(beneath())).map_err(fail)?;
        let mut listing = nix::dir::Dir::from_fd(fresh).map_err(fail)?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(fail)?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether `name` is a directory in this one, and no link.
    pub fn has_directory(&self, name: &str) -> bool {
        fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
    }

    /// Makes the names in this directory survive a power cut.
    ///
    /// # Errors
    /// If the file system fails to write.
    pub fn sync(&self) -> Result<(), FileError> {
        nix::unistd::fsync(&self.handle).map_err(|e| FileError::new("sync", &self.path, e))
    }

    fn duplicate(&self) -> Result<OwnedFd, FileError> {
        self.handle.try_clone().map_err(|e| FileError::new("open", &self.path, e))
    }

    fn open_regular(&self, name: &str, flags: OFlag, mode: Mode) -> Result<File, FileError> {
        let handle = self.open_beneath(name, flags, mode)?;
        require_regular(&handle).map_err(|e| FileError::new("open", self.path_of(name), e))?;
        Ok(File::from(handle))
    }

    fn open_beneath(&self, name: &str, flags: OFlag, mode: Mode) -> Result<OwnedFd, FileError> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(beneath());
        openat2(&self.handle, component(self, name)?, how).map_err(|e| {
            let source = match e {
                Errno::ELOOP => io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link"),
                e => e.into(),
            };
            FileError::new("open", self.path_of(name), source)
        })
    }
}

/// Opens a file that a user named on the command line. A link there is refused, not followed; so is anything but a regular file.
///
/// # Errors
/// If it cannot be opened, or is no regular file.
pub fn open_user_file(path: &Path) -> Result<File, FileError> {
    let fail = |e: io::Error| FileError::new("open", path, e);
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let handle = nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| match e {
        Errno::ELOOP => {
            fail(io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link; name the file itself"))
        }
        e => fail(e.into()),
    })?;
    require_regular(&handle).map_err(fail)?;
    Ok(File::from(handle))
}

/// The first directory on the way to `path`, `path` included, that lets nobody but its owner and group pass: QEMU's user cannot reach what is
/// below it, unless it is one of them. None if there is none.
pub fn first_closed_directory(path: &Path) -> Option<&Path> {
    const OTHERS_PASS: u32 = 0o001;
    let mut ways: Vec<&Path> = path.ancestors().collect();
    ways.reverse();
    ways.into_iter().find(|way| way.metadata().is_ok_and(|m| m.is_dir() && m.permissions().mode() & OTHERS_PASS == 0))
}

fn require_regular(handle: impl AsFd) -> io::Result<()> {
    let kind = Entry::of(handle)?.kind;
    if kind == EntryKind::File {
        return Ok(());
    }
    let name = kind.describe();
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {name}, not a regular file")))
}

/// `name`, if it is one path component. All names come from this program, so another one is a bug; it is refused rather than resolved.
fn component<'n>(directory: &Directory, name: &'n str) -> Result<&'n str, FileError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        let why = io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of an entry"));
        return Err(FileError::new("use", directory.path(), why));
    }
    Ok(name)
}

fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

fn beneath() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS
}
