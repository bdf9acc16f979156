//! Tests of telling image formats apart.

use std::io::Write;
use std::process::Command;

use super::*;

fn detect(content: &[u8]) -> Result<DetectedFormat, RefusedFormat> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    detect_format(&file)
}

#[test]
fn anything_without_a_known_magic_is_raw_in_whole_sectors() {
    for (bytes, virtual_bytes) in [(1, 512), (512, 512), (513, 1024), (4096, 4096)] {
        assert_eq!(detect(&vec![7; bytes]).unwrap(), DetectedFormat { format: DiskFormat::Raw, virtual_bytes });
    }
}

#[test]
fn each_foreign_format_is_named_with_its_fix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    // What qemu-img itself writes, not what our table says.
    for format in ["vmdk", "vdi", "vhdx", "vpc", "qed", "qcow", "parallels"] {
        let made = Command::new("qemu-img").args(["create", "-q", "-f", format]).arg(&path).arg("16M").output();
        let made = made.expect("qemu-img is installed by xtask/host/install.sh");
        assert!(made.status.success(), "{format}: {}", String::from_utf8_lossy(&made.stderr));
        let error = detect_format(&File::open(&path).unwrap()).unwrap_err();
        let fix = format!("qemu-img convert -f {format} -O qcow2");
        assert!(error.to_string().contains(&fix), "{format}: {error}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_fixed_vhd_is_told_by_its_trailer() {
    let mut content = vec![0; 4096];
    content[4096 - 512..][..8].copy_from_slice(b"conectix");
    assert!(matches!(detect(&content), Err(RefusedFormat::Foreign("vpc"))));
}

#[test]
fn packed_files_are_named_with_their_fix() {
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    for (content, fix) in
        [(&b"\x1f\x8b\x08"[..], "gunzip FILE"), (b"\xfd7zXZ\0\0", "unxz FILE"), (&tar, "tar -xf FILE")]
    {
        let error = detect(content).unwrap_err().to_string();
        assert!(error.contains(fix), "{error}");
    }
}

#[test]
fn an_empty_file_is_no_disk() {
    assert!(matches!(detect(b""), Err(RefusedFormat::Empty)));
}

#[test]
fn qcow2_files_that_need_another_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let create = |name: &str, args: &[&str]| {
        let run = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .args(args)
            .arg(path(name))
            .arg("1M")
            .status();
        assert!(run.unwrap().success());
        detect_format(&File::open(path(name)).unwrap())
    };
    let plain = create("plain", &[]).unwrap();
    assert_eq!(plain, DetectedFormat { format: DiskFormat::Qcow2, virtual_bytes: 1 << 20 });
    let overlay = create("overlay", &["-b", &path("plain"), "-F", "qcow2"]);
    assert!(matches!(overlay, Err(RefusedFormat::BackingFile(name)) if name == path("plain")));
    let split = create("split", &["-o", &format!("data_file={}", path("data"))]);
    assert!(matches!(split, Err(RefusedFormat::ExternalDataFile)));
}
