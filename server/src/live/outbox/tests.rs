//! What a reader gets, however slow it is.

use super::*;
use crate::live::delivery::Settings;
use crate::live::event::EventBody;
use std::time::Instant;
use tidings_protocol::ObjectId;
use tidings_protocol::live::Event;

fn outbox(settings: Settings) -> Outbox {
    let delivery = Arc::new(Delivery::new(settings, Instant::now(), || {}));
    Outbox::new(Addressee { client_id: "c".into(), installation_id: None }, delivery)
}

fn event(request_id: i64, event: Event, id: &str, object: &str) -> Entry {
    let original = matches!(event, Event::Update | Event::Leave).then_some(&b"{\"o\":0}"[..]);
    let cursor = crate::changes::Cursor::behind("t".into(), 1);
    let body = EventBody::new(event, &ObjectId::new(id), &cursor, object.as_bytes(), original);
    Entry::Event { request_id, body }
}

fn texts(outbox: &Outbox, now: Millis) -> Vec<String> {
    let (mut taken, mut scratch) = (VecDeque::new(), BytesMut::new());
    outbox.take(usize::MAX, &mut taken, now);
    taken
        .into_iter()
        .map(|outgoing| match outbox.compose(outgoing, &mut scratch) {
            Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Err(number) => format!("ping {number}"),
        })
        .collect()
}

const SMALL: fn() -> Settings =
    || Settings { coalesce_mark: 500, resync_mark: 1_000, close_mark: 2_000, ..Settings::default() };

#[test]
fn frames_are_whole() {
    let outbox = outbox(Settings::default());
    outbox.append(&mut vec![event(4, Event::Update, "x", "{}"), Entry::Ping(9)], 0);
    outbox.push_frame(b"{}".to_vec(), 0);
    assert_eq!(
        texts(&outbox, 0),
        [
            r#"{"op":"update","clientId":"c","requestId":4,"cursor":"t.1","object":{},"original":{"o":0}}"#,
            "ping 9",
            "{}"
        ]
    );
    assert_eq!((outbox.queued_bytes(), outbox.delivery.keeping_bytes()), (0, 0));
}

#[test]
fn a_reader_that_is_offered_nothing_is_never_slow() {
    let outbox = outbox(SMALL());
    for at in 0..100 {
        let relief = outbox.append(&mut vec![event(1, Event::Create, &format!("{at}"), "{}")], at * 1_000).0;
        assert_eq!(relief, Relief::default());
    }
    assert_eq!(outbox.offered(false, 99_000), Verdict::Unchanged);
    assert_eq!(texts(&outbox, 100_000).len(), 100);
    // And those that wait as long as everybody else are not slow either.
    let settings = Settings { coalesce_mark: 500, ..Settings::default() };
    let outbox = self::outbox(settings);
    outbox.delivery.wrote(10 << 20, 2_000);
    outbox.append(&mut vec![event(1, Event::Create, "x", "{}")], 0);
    assert_eq!(outbox.offered(true, 7_900), Verdict::Unchanged);
    assert_eq!(outbox.offered(true, 8_000), Verdict::BecameSlow);
}

#[test]
fn the_steps_of_a_slow_reader() {
    let outbox = outbox(SMALL());
    outbox.append(&mut vec![event(1, Event::Create, "x", "{}")], 0);
    assert_eq!(outbox.offered(true, 2_999), Verdict::Unchanged);
    assert_eq!(outbox.offered(true, 3_000), Verdict::BecameSlow);
    assert_eq!(outbox.delivery.keeping_bytes(), 0);
    assert!(outbox.delivery.slow_bytes() > 0);
    // Up to the first mark nothing happens; then events on one object become one.
    let mut coalesced = 0;
    for n in 0..100 {
        let relief = outbox.append(&mut vec![event(1, Event::Update, "x", &format!("{{\"n\":{n}}}"))], 3_000).0;
        assert_eq!((relief.resync.len(), relief.closed), (0, false));
        coalesced += relief.coalesced;
    }
    assert!(coalesced > 80 && outbox.queued_bytes() <= 600);
    // Objects that are all different cannot be merged: the subscription starts afresh.
    let mut relief = Relief::default();
    for n in 0..20 {
        relief = outbox.append(&mut vec![event(2, Event::Create, &format!("{n}"), "{\"n\":1}")], 3_000).0;
        if !relief.resync.is_empty() {
            break;
        }
    }
    assert_eq!(relief.resync, [1, 2]);
    assert_eq!((outbox.queued_bytes(), outbox.delivery.slow_bytes()), (0, 0));
    // What cannot be dropped ends the connection.
    let frame = || vec![Entry::Frame(vec![b' '; 1_500].into())];
    assert_eq!(outbox.append(&mut frame(), 3_000).0, Relief::default());
    assert_eq!(outbox.closing(), None);
    assert!(outbox.append(&mut frame(), 3_000).0.closed);
    assert_eq!(outbox.closing().unwrap().code, TOO_SLOW);
    assert_eq!(outbox.delivery.slow_bytes(), 0);
}

#[test]
fn a_slow_reader_catches_up_and_stays_on_probation() {
    let outbox = outbox(SMALL());
    outbox.append(&mut vec![event(1, Event::Create, "x", "{}")], 0);
    assert_eq!(outbox.offered(true, 3_000), Verdict::BecameSlow);
    assert_eq!(texts(&outbox, 4_000).len(), 1);
    assert_eq!(outbox.offered(false, 4_000), Verdict::CaughtUp);
    assert_eq!((outbox.delivery.keeping_bytes(), outbox.delivery.slow_bytes()), (0, 0));
    outbox.delivery.wrote(10 << 20, 0);
    outbox.append(&mut vec![event(1, Event::Create, "x", "{}")], 5_000);
    assert_eq!(outbox.offered(true, 5_250), Verdict::BecameSlow);
}

#[test]
fn coalescing_keeps_order_and_other_subscriptions() {
    let outbox = outbox(Settings { coalesce_mark: 0, ..Settings::default() });
    outbox.append(&mut vec![event(9, Event::Create, "first", "{}")], 0);
    assert_eq!(outbox.offered(true, 3_000), Verdict::BecameSlow);
    let mut staged = vec![
        event(1, Event::Create, "x", "1"),
        event(2, Event::Create, "x", "1"),
        event(1, Event::Create, "y", "2"),
        event(1, Event::Update, "x", "3"),
        event(1, Event::Delete, "y", "4"),
        event(1, Event::Create, "y", "5"),
    ];
    let relief = outbox.append(&mut staged, 3_000).0;
    assert_eq!(relief.coalesced, 3);
    let texts = texts(&outbox, 3_000);
    let seen: Vec<&str> = texts.iter().map(|text| &text[text.find("requestId").unwrap() + 11..]).collect();
    // What came first on `y` has gone behind `x`: who heard only of `x` must not go on from there.
    assert_eq!(
        seen,
        [
            r#"9,"cursor":"t.1","object":{}}"#,
            r#"2,"cursor":"t.1","object":1}"#,
            r#"1,"cursor":"merged.0","object":3}"#,
            r#"1,"cursor":"t.1","object":5}"#
        ]
    );
}

#[test]
fn coalescing_does_not_cross_a_result() {
    let mut entries: VecDeque<_> = [
        event(1, Event::Update, "x", "1"),
        Entry::Result { request_id: 1, frame: Bytes::new() },
        event(1, Event::Update, "x", "2"),
    ]
    .into_iter()
    .map(|entry| Waiting { since: 0, entry })
    .collect();
    assert_eq!(coalesce(&mut entries), 0);
}
