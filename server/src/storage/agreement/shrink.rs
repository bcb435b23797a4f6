//! Makes a case that fails smaller while it fails, part by part, so that somebody can read it.

use super::Voices;
use super::generate::{Asked, Case};
use tidings_protocol::{Map, Object, Value};

/// How often the smaller cases are tried. Each means to store the objects again.
const TRIES: usize = 600;

pub(super) async fn smallest(voices: &mut Voices, mut case: Case) -> Case {
    let mut tries = 0;
    // Halves first: with few objects everything else is quick.
    let mut size = case.objects.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < case.objects.len() && tries < TRIES {
            let mut objects = case.objects.clone();
            objects.drain(at..(at + size).min(objects.len()));
            tries += 1;
            if voices.differ(&objects, &case.asked).await.is_some() {
                case.objects = objects;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    'again: loop {
        let asked = smaller_questions(&case.asked).into_iter();
        let questions = asked.map(|asked| Case { objects: case.objects.clone(), asked });
        let objects = smaller_objects(&case.objects).into_iter();
        let smaller: Vec<Case> =
            questions.chain(objects.map(|objects| Case { objects, asked: case.asked.clone() })).collect();
        for candidate in smaller {
            tries += 1;
            if tries > TRIES {
                return case;
            }
            if voices.differ(&candidate.objects, &candidate.asked).await.is_some() {
                case = candidate;
                continue 'again;
            }
        }
        return case;
    }
}

fn smaller_questions(asked: &Asked) -> Vec<Asked> {
    let mut smaller = Vec::new();
    for filter in smaller_maps(&asked.filter) {
        smaller.push(Asked { filter, ..asked.clone() });
    }
    // A part of `$or` and its like in place of the whole.
    for (_, value) in asked.filter.iter() {
        for part in value.as_array().into_iter().flatten().filter_map(Value::as_object) {
            smaller.push(Asked { filter: part.clone(), ..asked.clone() });
        }
    }
    for at in 0..asked.order.len() {
        let mut order = asked.order.clone();
        order.remove(at);
        smaller.push(Asked { order, ..asked.clone() });
    }
    for plain in [
        Asked { skip: 0, ..asked.clone() },
        Asked { limit: u64::MAX, ..asked.clone() },
        Asked { reader: crate::permissions::Principals::MASTER, ..asked.clone() },
    ] {
        if plain != *asked {
            smaller.push(plain);
        }
    }
    smaller
}

fn smaller_objects(objects: &[Object]) -> Vec<Vec<Object>> {
    let mut smaller = Vec::new();
    let mut with = |at: usize, object: Option<Object>| {
        let mut objects = objects.to_vec();
        objects.splice(at..=at, object);
        smaller.push(objects);
    };
    for (at, object) in objects.iter().enumerate() {
        with(at, None);
        if object.acl.is_some() {
            with(at, Some(Object { acl: None, ..object.clone() }));
        }
        for fields in smaller_maps(&object.fields) {
            with(at, Some(Object { fields, ..object.clone() }));
        }
    }
    smaller
}

/// The map without one of its members, or with a smaller one.
fn smaller_maps(map: &Map) -> Vec<Map> {
    let mut smaller = Vec::new();
    for (name, value) in map.iter() {
        let mut without = map.clone();
        without.remove(name);
        smaller.push(without);
        for value in smaller_values(value) {
            let mut with = map.clone();
            with.insert(name.clone(), value);
            smaller.push(with);
        }
    }
    smaller
}

fn smaller_values(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(map) => smaller_maps(map).into_iter().map(Value::Object).collect(),
        Value::Array(items) => {
            let mut smaller = Vec::new();
            for (at, item) in items.iter().enumerate() {
                let mut without = items.clone();
                without.remove(at);
                smaller.push(Value::Array(without));
                for item in smaller_values(item) {
                    let mut with = items.clone();
                    with[at] = item;
                    smaller.push(Value::Array(with));
                }
            }
            smaller
        }
        _ => Vec::new(),
    }
}
