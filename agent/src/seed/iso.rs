//! A small ISO 9660 image with a Joliet tree: a handful of files in the root directory, the same bytes for the same input.
//!
//! Formats: ECMA-119 (<https://ecma-international.org/publications-and-standards/standards/ecma-119/>) and the Joliet specification.
//! Linux reads the Joliet tree, where names are as given. The plain tree holds them in upper case with version 1, which is what a kernel
//! without Joliet shows in lower case again. No dates, no owners, no Rock Ridge: nothing that would differ from one run to the next.
//!
//! ```text
//! sector  0..15  system area, zero      18  end of descriptors              23  root directory
//!         16     primary descriptor     19  path table, little endian       24  root directory, Joliet
//!         17     Joliet descriptor      20  path table, big endian          25  files, each from a new sector
//!                                       21, 22  the same for Joliet
//! ```

const SECTOR_BYTES: u16 = 2048;
const PRIMARY_DESCRIPTOR: u32 = 16;
const JOLIET_DESCRIPTOR: u32 = 17;
const END_OF_DESCRIPTORS: u32 = 18;
const FIRST_FILE: u32 = 25;
/// A path table with one entry, the root: 8 bytes, a name of one byte, and padding.
const PATH_TABLE_BYTES: u32 = 10;
/// UCS-2 level 3, in the Joliet descriptor: makes it one.
const JOLIET_ESCAPE: &[u8] = b"%/E";
const IS_DIRECTORY: u8 = 2;

/// A file of the image.
#[derive(Clone, Copy)]
pub(super) struct IsoFile<'a> {
    /// Name: at most 24 lower-case ASCII letters, digits, `-`, `_`, with at most one `.`.
    pub(super) name: &'a str,
    /// Content, less than 4 GiB.
    pub(super) content: &'a [u8],
}

/// One of the two trees.
#[derive(Clone, Copy)]
struct Tree {
    little_path_table: u32,
    big_path_table: u32,
    root: u32,
    joliet: bool,
}

const PLAIN: Tree = Tree { little_path_table: 19, big_path_table: 20, root: 23, joliet: false };
const JOLIET: Tree = Tree { little_path_table: 21, big_path_table: 22, root: 24, joliet: true };

impl Tree {
    fn root_extent(self) -> Extent {
        Extent { sector: self.root, length: SECTOR_BYTES.into() }
    }
}

/// Makes the image. `label` is at most 16 ASCII characters, the files are in the order of their names.
/// None if it would not fit the format.
pub(super) fn make_iso(label: &str, files: &[IsoFile<'_>]) -> Option<Vec<u8>> {
    if label.len() > 16 || !label.is_ascii() {
        return None;
    }
    let mut extents = Vec::with_capacity(files.len());
    let mut next = FIRST_FILE;
    for file in files {
        let length = u32::try_from(file.content.len()).ok()?;
        extents.push(Extent { sector: next, length });
        next = next.checked_add(length.div_ceil(SECTOR_BYTES.into()))?;
    }
    let mut image = vec![0; usize::try_from(next).ok()?.checked_mul(SECTOR_BYTES.into())?];
    put(&mut image, PRIMARY_DESCRIPTOR, &volume_descriptor(label, next, PLAIN)?);
    put(&mut image, JOLIET_DESCRIPTOR, &volume_descriptor(label, next, JOLIET)?);
    put(&mut image, END_OF_DESCRIPTORS, b"\xffCD001\x01");
    for tree in [PLAIN, JOLIET] {
        put(&mut image, tree.little_path_table, &path_table(tree.root.to_le_bytes(), 1_u16.to_le_bytes()));
        put(&mut image, tree.big_path_table, &path_table(tree.root.to_be_bytes(), 1_u16.to_be_bytes()));
        put(&mut image, tree.root, &root_directory(tree, files, &extents)?);
    }
    for (file, extent) in files.iter().zip(&extents) {
        put(&mut image, extent.sector, file.content);
    }
    Some(image)
}

#[derive(Clone, Copy)]
struct Extent {
    sector: u32,
    length: u32,
}

fn put(image: &mut [u8], sector: u32, bytes: &[u8]) {
    let start = sector as usize * usize::from(SECTOR_BYTES);
    image[start..start + bytes.len()].copy_from_slice(bytes);
}

/// A number in both byte orders, as most fields hold it.
fn both_u32(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

fn both_u16(value: u16) -> [u8; 4] {
    let [low, high] = value.to_le_bytes();
    [low, high, high, low]
}

/// `text` filled up with spaces to `bytes` bytes, in the tree's character set.
fn padded(text: &str, bytes: usize, joliet: bool) -> Vec<u8> {
    let mut field = if joliet { ucs2(text) } else { text.as_bytes().to_vec() };
    let blank: &[u8] = if joliet { b"\0 " } else { b" " };
    while field.len() + blank.len() <= bytes {
        field.extend_from_slice(blank);
    }
    field.resize(bytes, 0);
    field
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// ECMA-119, 8.4 and 8.5.
fn volume_descriptor(label: &str, sectors: u32, tree: Tree) -> Option<Vec<u8>> {
    let text = |text: &str, bytes| padded(text, bytes, tree.joliet);
    let mut d = Vec::with_capacity(SECTOR_BYTES.into());
    d.push(if tree.joliet { 2 } else { 1 });
    d.extend(b"CD001\x01\0");
    d.extend(text("", 32)); // system
    d.extend(text(label, 32));
    d.extend([0; 8]);
    d.extend(both_u32(sectors));
    let mut escape = [0; 32];
    if tree.joliet {
        escape[..JOLIET_ESCAPE.len()].copy_from_slice(JOLIET_ESCAPE);
    }
    d.extend(escape);
    d.extend(both_u16(1)); // discs in the set
    d.extend(both_u16(1)); // this one
    d.extend(both_u16(SECTOR_BYTES));
    d.extend(both_u32(PATH_TABLE_BYTES));
    d.extend(tree.little_path_table.to_le_bytes());
    d.extend([0; 4]); // no second copy
    d.extend(tree.big_path_table.to_be_bytes());
    d.extend([0; 4]);
    d.extend(directory_record(&[0], tree.root_extent(), IS_DIRECTORY)?);
    for bytes in [128, 128, 128, 128, 37, 37, 37] {
        d.extend(text("", bytes)); // volume set, publisher, preparer, application, three file names
    }
    for _ in 0..4 {
        d.extend([b'0'; 16]); // a date that is not given
        d.push(0);
    }
    d.push(1); // version of the directory records
    d.resize(SECTOR_BYTES.into(), 0);
    Some(d)
}

/// ECMA-119, 9.4: the root alone.
fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    let mut table = vec![1, 0];
    table.extend(root);
    table.extend(parent);
    table.extend([0, 0]); // name and padding
    table
}

fn root_directory(tree: Tree, files: &[IsoFile<'_>], extents: &[Extent]) -> Option<Vec<u8>> {
    let mut directory = directory_record(&[0], tree.root_extent(), IS_DIRECTORY)?; // itself
    directory.extend(directory_record(&[1], tree.root_extent(), IS_DIRECTORY)?); // its parent
    for (file, extent) in files.iter().zip(extents) {
        let name =
            if tree.joliet { ucs2(file.name) } else { format!("{};1", file.name.to_ascii_uppercase()).into_bytes() };
        directory.extend(directory_record(&name, *extent, 0)?);
    }
    // It has one sector.
    (directory.len() <= SECTOR_BYTES.into()).then_some(directory)
}

/// ECMA-119, 9.1.
fn directory_record(name: &[u8], extent: Extent, flags: u8) -> Option<Vec<u8>> {
    // 33 fixed bytes, the name, and one more if that makes the sum even.
    let length = (33 + name.len()).next_multiple_of(2);
    let mut record = vec![u8::try_from(length).ok()?, 0];
    record.extend(both_u32(extent.sector));
    record.extend(both_u32(extent.length));
    record.extend([70, 1, 1, 0, 0, 0, 0]); // 1970-01-01, UTC
    record.extend([flags, 0, 0]);
    record.extend(both_u16(1)); // disc
    record.push(u8::try_from(name.len()).ok()?);
    record.extend(name);
    record.resize(length, 0);
    Some(record)
}
