//! What a hook costs: microseconds per run, on one thread.
//!
//! `cargo run --release -p tidings-cloud-code --example cost [FOLDER]`: a folder with a `main.rhai` adds its
//! `before_save` of `Message` to the list.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidings_cloud_code::{
    Call, CloudCode, HookRequest, Host, Level, Mode, Outcome, RateLimiter, Save, Trigger, strip_tags,
};
use tidings_protocol::{ClassName, Date, Map, Object, ObjectId, Query, Result, Value, map};

struct Memory {
    conversation: Object,
    limiter: RateLimiter,
}

impl Host for Memory {
    fn find(&self, _: &Call<'_>, _: Query) -> Result<Vec<Object>> {
        Ok(Vec::new())
    }
    fn count(&self, _: &Call<'_>, _: Query) -> Result<u64> {
        Ok(0)
    }
    fn get(&self, _: &Call<'_>, _: &ClassName, _: &ObjectId) -> Result<Option<Object>> {
        Ok(None)
    }
    fn get_from_memory(&self, _: &Call<'_>, _: &ClassName, _: &ObjectId) -> Option<Result<Option<Object>>> {
        Some(Ok(Some(self.conversation.clone())))
    }
    fn save(&self, _: &Call<'_>, _: Save) -> Result<Option<Object>> {
        Ok(None)
    }
    fn delete(&self, _: &Call<'_>, _: &ClassName, _: &ObjectId) -> Result<()> {
        Ok(())
    }
    fn rate_limit(&self, key: &str, _: usize, window: Duration) -> bool {
        self.limiter.take(key, 10, window, Instant::now());
        true
    }
    fn now(&self) -> Date {
        Date::default()
    }
    fn log(&self, _: Level, _: &str, _: &str) {}
}

fn user(id: &str) -> Value {
    Value::pointer(ClassName::USER, ObjectId::new(id))
}

fn main() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let participants = Value::Array(vec![user("alice"), user("bob")]);
    let conversation = Object {
        id: ObjectId::new("room"),
        fields: Map::from_pairs(vec![("participants".into(), participants)]),
        acl: Some(tidings_protocol::Acl::default().with("alice", true, true).with("bob", true, true)),
        ..Object::default()
    };
    let host: Arc<dyn Host> = Arc::new(Memory { conversation, limiter: RateLimiter::default() });
    let fields = map! {
        "conversation" => Value::pointer(ClassName::parse("Conversation").unwrap(), ObjectId::new("room")),
        "text" => "Shall we meet at the station at half past seven? I <3 trains & timetables",
    };
    let request = Arc::new(HookRequest {
        class: ClassName::parse("Message").unwrap(),
        object: Arc::new(Object { id: ObjectId::new("m"), fields, ..Object::default() }),
        user: Some(Arc::new(Object { id: ObjectId::new("alice"), ..Object::default() })),
        ..HookRequest::default()
    });

    let script = |text: &str| CloudCode::from_script(text).unwrap();
    let mut rows = vec![
        ("empty handler".to_owned(), script(r#"before_save("Message", |request| { 1 });"#)),
        ("read one field".to_owned(), script(r#"before_save("Message", |request| { request.object.text });"#)),
        (
            "trim, strip_tags, check, set".to_owned(),
            script(
                r#"before_save("Message", |request| {
                    let text = strip_tags(request.object.text);
                    text.trim();
                    if text.is_empty() { throw error(142, "empty"); }
                    request.object.text = text;
                });"#,
            ),
        ),
        ("the chat (conversation in memory)".to_owned(), CloudCode::load(&here.join("..")).unwrap()),
    ];
    for folder in std::env::args().skip(1) {
        rows.push((folder.clone(), CloudCode::load(Path::new(&folder)).unwrap()));
    }
    println!("{:>9}  before_save of a Message", "µs/run");
    for (name, cloud_code) in rows {
        let hook = cloud_code.hook("Message", Trigger::BeforeSave).unwrap();
        let once = || {
            let run = hook.run(&request, &host, Mode::Inline { budget: Duration::from_secs(1) });
            assert!(matches!(run.outcome, Outcome::Continue(_)), "{:?}", run.outcome);
        };
        println!("{:>9.2}  {name}", micros(5_000, once));
    }
    let text = "Shall we meet at the <b>station</b> at half past seven? I <3 trains & timetables";
    println!("{:>9.2}  strip_tags alone", micros(100_000, || drop(std::hint::black_box(strip_tags(text)))));
    println!("{:>9.2}  hook lookup", {
        let cloud_code = CloudCode::load(&here.join("..")).unwrap();
        micros(100_000, || assert!(std::hint::black_box(cloud_code.has("Message", Trigger::BeforeSave))))
    });
}

/// The best of five rounds: the others share the machine.
fn micros(runs: u32, mut once: impl FnMut()) -> f64 {
    let round = |once: &mut dyn FnMut()| {
        let started = Instant::now();
        for _ in 0..runs {
            once();
        }
        started.elapsed().as_secs_f64() * 1e6 / f64::from(runs)
    };
    (0..5).map(|_| round(&mut once)).fold(f64::INFINITY, f64::min)
}
