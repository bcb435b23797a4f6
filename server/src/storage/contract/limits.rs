//! How large an object may be, and what an id may hold.

use super::*;

pub async fn objects_have_a_largest_size(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Large");
    let text = |bytes: usize| format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
    done(&*store, create(&class, "a", &text((1 << 20) - 500))).await;
    let too_large = rejected(store.commit(vec![create(&class, "b", &text((1 << 20) + 1))]).await);
    assert_eq!(too_large, Code::ObjectTooLarge.number());
    let more = update(&class, "a", &format!(r#"{{"more":"{}"}}"#, "y".repeat(1_000)));
    assert_eq!(rejected(store.commit(vec![more]).await), Code::ObjectTooLarge.number());
    let many = (0..20).map(|n| create(&class, &format!("m{n}"), &text(900_000))).collect();
    assert_eq!(rejected(store.commit(many).await), Code::ObjectTooLarge.number());
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "a");
    assert_eq!(get(&*store, &class, "a").await.unwrap().fields.len(), 1);
}

pub async fn objects_have_a_largest_depth(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Deep");
    done(&*store, create(&class, "a", r#"{"o":{}}"#)).await;
    let nested = format!("{}1{}", r#"{"x":"#.repeat(40), "}".repeat(40));
    let path = ["x"; 39].join(".");
    done(&*store, update(&class, "a", &format!(r#"{{"o":{nested}}}"#))).await;
    let deeper = update(&class, "a", &format!(r#"{{"o.{path}":{nested}}}"#));
    assert_eq!(rejected(store.commit(vec![deeper]).await), Code::InvalidJson.number());
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "a");
}

pub async fn ids_of_any_text_work(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Ids");
    let texts = ["a", "aa", "a\u{0}", "é", "a b", "😀", "0", "a\u{0}b"];
    for text in texts {
        done(&*store, create(&class, text, r#"{"n":1}"#)).await;
    }
    for text in texts {
        assert_eq!(get(&*store, &class, text).await.unwrap().id.as_str(), text);
    }
    let mut sorted = texts;
    sorted.sort_unstable();
    assert_eq!(found(&*store, &select(&class, "{}", "createdAt")).await, sorted.join(" "));
    assert_eq!(found(&*store, &select(&class, "{}", "n")).await, sorted.join(" "));
    let long = "x".repeat(100_000);
    assert_eq!(get(&*store, &class, &long).await, None);
    assert_eq!(get(&*store, &class, "").await, None);
    for impossible in ["", &long] {
        assert!(matches!(failure(&*store, create(&class, impossible, "{}")).await, WriteError::Rejected(_)));
    }
}
