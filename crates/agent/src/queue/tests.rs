//! What no line could carry never gets into the queue.

use kuramori_model::tree::{Entry, EntryKind, Meta, TreePath};
use kuramori_source::Cancel;
use kuramori_wire::message::Item;

use super::*;

impl Queue {
    /// A chunk that the server asked for.
    pub(crate) fn offer(&self, bytes: Vec<u8>) {
        let held = Held { id: fingerprint(&bytes), bytes: Arc::new(bytes) };
        self.lock().to_send.push_back(held);
    }
}

fn item(xattr: usize) -> Item {
    let meta = Meta { xattrs: vec![(b"user.a".to_vec(), vec![1; xattr])], ..Meta::default() };
    Item::from(&Entry { path: TreePath::new("a/b").unwrap(), kind: EntryKind::File { size: 1 }, meta })
}

#[test]
fn an_event_that_no_message_carries_is_refused_and_the_next_one_goes_on() {
    let queue = Queue::new(1 << 20, 1 << 20, 1, Cancel::default());
    for length in [MESSAGE_MAX - PART_MAX * 32, MESSAGE_MAX, 3 * MESSAGE_MAX] {
        let file = Event::File { item: item(length), content: Vec::new(), done: false };
        assert!(matches!(queue.begin(file), Err(AgentError::TooLarge { .. })), "{length}");
        assert!(matches!(queue.put(Event::Item(item(length))), Err(AgentError::TooLarge { .. })), "{length}");
    }
    let report = Event::End { report: "x".repeat(MESSAGE_MAX) };
    assert!(matches!(queue.put(report), Err(AgentError::TooLarge { .. })));
    // The largest that is taken fits with all the content that may be added to it.
    let number =
        queue.begin(Event::File { item: item(EVENT_MAX - 200), content: Vec::new(), done: false }).unwrap();
    assert_eq!(number, 1, "what was refused has no number");
    let mut state = queue.lock();
    let Some(Queued { event: event @ Event::File { .. }, .. }) = state.event(number) else { panic!() };
    let Event::File { content, .. } = event else { panic!() };
    content.resize(PART_MAX, [9; 32]);
    assert!(encode(&Message::Event { number: u64::MAX, event: event.clone() }).is_ok());
}

#[test]
fn an_item_of_a_megabyte_of_attributes_is_a_fault_and_the_run_goes_on() {
    use kuramori_model::tree::Sink;
    use kuramori_repo::chunk::{Chunking, Cutter};

    let queue = Arc::new(Queue::new(1 << 20, 1 << 20, 1, Cancel::default()));
    let mut sink =
        crate::sink::Remote::new(queue.clone(), Cutter::with_table(Chunking::Fixed, [0; 256]), false);
    for (name, kind) in [("file", EntryKind::File { size: 1 }), ("folder", EntryKind::Dir)] {
        let meta = Meta { xattrs: vec![(b"user.a".to_vec(), vec![1; MESSAGE_MAX])], ..Meta::default() };
        let entry = Entry { path: TreePath::new(name).unwrap(), kind, meta };
        sink.put(entry, &mut b"x".as_slice()).unwrap();
    }
    let line = queue.main_begins(0).unwrap();
    for name in [b"file".as_slice(), b"folder"] {
        let next = queue.main_next(line, Duration::ZERO);
        let Next::Send(Message::Event { event: Event::Fault { path, why }, .. }) = next else { panic!() };
        assert_eq!(path, name);
        assert!(why.contains("message"), "{why}");
    }
    assert!(queue.going());
}

#[test]
fn a_listing_is_bounded_by_its_bytes_and_not_only_by_its_number() {
    let queue = Queue::new(1 << 20, 1 << 20, 1, Cancel::default());
    let known = |length: usize| Known {
        place: 0,
        name: vec![b'n'; length],
        size: 0,
        mtime: (0, 0),
        ctime: (0, 0),
        inode: 0,
    };
    let ask = || {
        let mut state = queue.lock();
        state.folders += 1;
        let number = state.folders;
        state.folder = Some(Folder { number, path: Vec::new(), items: Vec::new(), bytes: 0, done: false });
        number
    };
    let answer = |number, items| queue.main_heard(Message::Listing { number, items, more: true });
    let number = ask();
    for _ in 0..20 {
        answer(number, vec![known(255); 1000]).unwrap();
    }
    let number = ask();
    let taken = (0..200).take_while(|_| answer(number, vec![known(500_000); 2]).is_ok()).count();
    assert!((60..80).contains(&taken), "{taken}");
}
