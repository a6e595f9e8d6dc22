use super::*;

fn drain(spool: &Spool) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(record) = spool.oldest().unwrap() {
        spool.done(&record);
        all.push(record.bytes);
    }
    all
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

/// Records come back in their order, over segments and restarts, until they are done; then their files go.
#[test]
fn records_come_back_until_they_are_done() {
    let dir = tempfile::tempdir().unwrap();
    let records: Vec<Vec<u8>> = (0..40_u8).map(|i| vec![i; 1000]).collect();
    let spool = Spool::open(dir.path(), 64 * 1024).unwrap();
    records.iter().for_each(|record| spool.append(record).unwrap());
    assert!(files(dir.path(), EXTENSION).len() > 3);
    assert_eq!(spool.oldest().unwrap(), spool.oldest().unwrap(), "it stays until it is done");
    let first = spool.oldest().unwrap().unwrap();
    spool.done(&first);
    drop(spool);
    let spool = Spool::open(dir.path(), 64 * 1024).unwrap();
    spool.append(b"later").unwrap();
    let mut wanted = records;
    wanted.push(b"later".to_vec());
    assert_eq!(drain(&spool), wanted, "what was done in a segment that is not comes again");
    assert_eq!((spool.bytes(), files(dir.path(), EXTENSION).len()), (0, 0));
    spool.append(b"once more").unwrap();
    assert_eq!(drain(&spool), [b"once more"]);
}

/// Wherever the newest segment ends, every record before is whole, what is behind is cut, and what comes later is read.
#[test]
fn a_torn_end_is_cut_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 1 << 20).unwrap();
    spool.append(b"first").unwrap();
    spool.append(b"the second").unwrap();
    drop(spool);
    let [path] = &files(dir.path(), EXTENSION)[..] else { panic!("one segment") };
    let whole = fs::read(path).unwrap();
    for cut in 0..=whole.len() {
        files(dir.path(), EXTENSION).iter().for_each(|path| fs::remove_file(path).unwrap());
        fs::write(path, &whole[..cut]).unwrap();
        let spool = Spool::open(dir.path(), 1 << 20).unwrap();
        let left: u64 = files(dir.path(), EXTENSION).iter().map(|p| p.metadata().unwrap().len()).sum();
        assert_eq!(left, spool.bytes(), "cut at {cut}: nothing but whole records is left");
        spool.append(b"third").unwrap();
        let records = drain(&spool);
        let wanted = usize::from(cut >= 8 + 12 + 5) + usize::from(cut == whole.len());
        assert_eq!(records.len(), wanted + 1, "cut at {cut}");
        assert_eq!(records.last().unwrap(), b"third");
        assert_eq!(files(dir.path(), "damaged").len(), 0, "cut at {cut}");
    }
}

/// A flipped bit costs the records behind it in its segment, which are put aside, and nothing of other segments. It never
/// gives anything that was not appended.
#[test]
fn damage_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let fill = || {
        let spool = Spool::open(dir.path(), 64 * 1024).unwrap();
        (0..12_u8).for_each(|i| spool.append(&[i; 1000]).unwrap());
    };
    fill();
    let path = files(dir.path(), EXTENSION)[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[8 + 1012 + 500] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let in_segment = (bytes.len() - 8) / 1012;
    let spool = Spool::open(dir.path(), 64 * 1024).unwrap();
    assert_eq!(drain(&spool).len(), 12 - in_segment + 1);
    let aside = files(dir.path(), "damaged");
    assert_eq!(fs::read(&aside[0]).unwrap(), bytes[8 + 1012..]);
    // The same while it is open.
    drop(spool);
    fill();
    let spool = Spool::open(dir.path(), 64 * 1024).unwrap();
    let path = files(dir.path(), EXTENSION)[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(drain(&spool).len(), 12 - in_segment);
    assert_eq!(files(dir.path(), "damaged").len(), 2);
}

/// It never has more bytes than it may, and takes more as soon as a segment is done.
#[test]
fn it_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 32 * 1024).unwrap();
    let mut count = 0;
    while spool.append(&[7; 900]).is_ok() {
        count += 1;
    }
    assert!((30..=36).contains(&count), "{count}");
    assert!(matches!(spool.append(&[7; 900]), Err(SpoolError::Full { .. })));
    let on_disk: u64 = files(dir.path(), EXTENSION).iter().map(|p| p.metadata().unwrap().len()).sum();
    assert_eq!((on_disk, on_disk <= 32 * 1024), (spool.bytes(), true));
    for _ in 0..5 {
        let record = spool.oldest().unwrap().unwrap();
        spool.done(&record);
    }
    spool.oldest().unwrap();
    spool.append(&[7; 900]).unwrap();
}

/// Two clients in one directory would deliver and remove each other's events.
#[test]
fn it_belongs_to_one() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 1 << 20).unwrap();
    assert!(matches!(Spool::open(dir.path(), 1 << 20), Err(SpoolError::Locked(_))));
    drop(spool);
    Spool::open(dir.path(), 1 << 20).unwrap();
}
