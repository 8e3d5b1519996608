//! What the frame codec and the session core take, without sockets.

#[cfg(target_os = "linux")]
mod benches {
    use std::hint::black_box;

    use criterion::{Criterion, Throughput, criterion_group};
    use relay_proto::yamux::{Flags, Header, Kind};
    use relay_workloads::WORKLOADS;

    fn codec(criterion: &mut Criterion) {
        let header = Header { kind: Kind::Data, flags: Flags::NONE, stream: 77, length: 64 * 1024 };
        let mut group = criterion.benchmark_group("header");
        group.throughput(Throughput::Elements(1));
        group.bench_function("encode", |bencher| bencher.iter(|| black_box(header).encode()));
        let bytes = header.encode();
        group.bench_function("decode", |bencher| bencher.iter(|| Header::decode(black_box(bytes))));
    }

    fn session(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("session");
        for workload in &WORKLOADS {
            group.throughput(Throughput::Elements(workload.units()));
            group.bench_function(workload.name, |bencher| bencher.iter(workload.start()));
        }
    }

    criterion_group!(yamux, codec, session);
}

#[cfg(target_os = "linux")]
criterion::criterion_main!(benches::yamux);

#[cfg(not(target_os = "linux"))]
fn main() {}
