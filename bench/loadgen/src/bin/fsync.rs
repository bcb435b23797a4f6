//! Appends 4 KiB + fdatasync in a loop. Usage: fsync DIR SECS [THREADS]  (each thread its own file)
use std::{
    fs::OpenOptions,
    io::Write,
    time::{Duration, Instant},
};

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (dir, secs) = (a[1].clone(), a[2].parse::<f64>().unwrap());
    let threads: usize = a.get(3).map_or(1, |t| t.parse().unwrap());
    for (mode, prealloc) in [("append", false), ("overwrite-preallocated", true)] {
        let begun = Instant::now();
        let mut lat: Vec<u64> = (0..threads)
            .map(|t| {
                let path = format!("{dir}/fsync-{}-{t}.tmp", std::process::id());
                std::thread::spawn(move || {
                    let mut f = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
                    let block = vec![7u8; 4096];
                    if prealloc {
                        // like a recycled WAL segment: written zeros, no size or extent change afterwards
                        f.write_all(&vec![0; 16 << 20]).unwrap();
                        f.sync_all().unwrap();
                        use std::io::Seek;
                        f.rewind().unwrap();
                    }
                    let (end, mut out, mut n) = (Instant::now() + Duration::from_secs_f64(secs), vec![], 0usize);
                    while Instant::now() < end {
                        if prealloc && n % 4096 == 0 && n > 0 {
                            use std::io::Seek;
                            f.rewind().unwrap();
                        }
                        let t0 = Instant::now();
                        f.write_all(&block).unwrap();
                        f.sync_data().unwrap(); // fdatasync
                        out.push(t0.elapsed().as_micros() as u64);
                        n += 1;
                    }
                    std::fs::remove_file(&path).unwrap();
                    out
                })
            })
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|h| h.join().unwrap())
            .collect();
        lat.sort();
        let q = |p: f64| lat[((lat.len() - 1) as f64 * p) as usize];
        println!(
            "{{\"ceiling\":\"fdatasync\",\"mode\":\"{mode}\",\"threads\":{threads},\"per_s\":{:.0},\"p50_us\":{},\"p99_us\":{},\"max_us\":{},\"secs\":{:.1}}}",
            lat.len() as f64 / secs,
            q(0.5),
            q(0.99),
            q(1.0),
            begun.elapsed().as_secs_f64()
        );
    }
}
