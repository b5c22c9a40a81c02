//! The little of XML that a NETCONF device's answer needs: elements by local name, their text, their children.
//! No document types (so no entities of their own), no more than [`DEPTH`] levels; attributes are skipped but for
//! `message-id`. Namespaces are not resolved: we ask for what we want and look only at what we asked for.
//!
//! Source of the form: XML 1.0 (W3C), 2.4 to 3.1.

/// Deeper answers are none to any of our questions.
const DEPTH: usize = 64;

/// One element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Without its prefix.
    pub(super) name: String,
    pub(super) message_id: Option<String>,
    /// All text directly in it, without space around it.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

impl Element {
    /// The first child of this name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of this name.
    pub(super) fn leaf(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }

    /// Every element of this name below this one, itself included.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> Vec<&'a Self> {
        let mut found = Vec::new();
        let mut waiting = vec![self];
        while let Some(one) = waiting.pop() {
            if one.name == name {
                found.push(one);
            }
            waiting.extend(one.children.iter().rev());
        }
        found
    }
}

/// The text's one root element, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Element, &'static str> {
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut rest = text;
    while !rest.is_empty() {
        let (before, markup) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
        match open.last_mut() {
            Some(element) => element.text.push_str(&plain(before)?),
            None if !before.trim().is_empty() => return Err("text outside of the root element"),
            None => {}
        }
        rest = if markup.is_empty() {
            ""
        } else if let Some(markup) = markup.strip_prefix("<!--") {
            after(markup, "-->")?.1
        } else if let Some(markup) = markup.strip_prefix("<![CDATA[") {
            let (data, rest) = after(markup, "]]>")?;
            open.last_mut().ok_or("text outside of the root element")?.text.push_str(data);
            rest
        } else if let Some(markup) = markup.strip_prefix("<?") {
            after(markup, "?>")?.1
        } else if markup.starts_with("<!") {
            return Err("a document type");
        } else if let Some(markup) = markup.strip_prefix("</") {
            let (name, rest) = after(markup, ">")?;
            let mut element = open.pop().ok_or("an end without a beginning")?;
            if local(name.trim_end()) != element.name {
                return Err("an end that is not of its beginning");
            }
            let text = std::mem::take(&mut element.text);
            text.trim().clone_into(&mut element.text);
            put(element, &mut open, &mut root)?;
            rest
        } else {
            let (tag, rest) = tag(markup)?;
            let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let name = tag.split(char::is_whitespace).next().unwrap_or_default();
            if local(name).is_empty() || open.len() >= DEPTH {
                return Err("an element without a name, or too deep");
            }
            let element =
                Element { name: local(name).to_owned(), message_id: message_id(tag), ..Element::default() };
            if empty {
                put(element, &mut open, &mut root)?;
            } else {
                open.push(element);
            }
            rest
        };
    }
    if !open.is_empty() {
        return Err("it ends within an element");
    }
    root.ok_or("there is no element")
}

fn put(element: Element, open: &mut [Element], root: &mut Option<Element>) -> Result<(), &'static str> {
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None if root.is_none() => *root = Some(element),
        None => return Err("two root elements"),
    }
    Ok(())
}

fn after<'a>(text: &'a str, end: &str) -> Result<(&'a str, &'a str), &'static str> {
    text.split_once(end).ok_or("markup without an end")
}

/// What is between `<` and its `>`, which may stand within quotes, and what follows.
fn tag(markup: &str) -> Result<(&str, &str), &'static str> {
    let mut quote = None;
    for (at, c) in markup.char_indices().skip(1) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '>') => return Ok((&markup[1..at], &markup[at + 1..])),
            _ => {}
        }
    }
    Err("markup without an end")
}

fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

fn message_id(tag: &str) -> Option<String> {
    let (_, value) = tag.split_once("message-id")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    value[1..].split_once(quote).map(|(id, _)| id.to_owned())
}

/// Text without its references.
fn plain(text: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, reference)) = rest.split_once('&') {
        out.push_str(before);
        let (name, after) = after(reference, ";")?;
        out.push(match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#').ok_or("an unknown reference")?;
                let number = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                number.ok().and_then(char::from_u32).ok_or("an unknown reference")?
            }
        });
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Text as it may stand within an element.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_text_and_references_are_read_and_what_is_no_answer_is_not() {
        let text = "<?xml version=\"1.0\"?>\n<nc:rpc-reply xmlns:nc=\"a>b\" message-id='7'><!-- <ok/> --><data>\
                    <if:name> a&amp;&#x41;<![CDATA[<enabled>]]> </if:name><e/></data></nc:rpc-reply >";
        let root = parse(text).unwrap();
        assert_eq!((root.name.as_str(), root.message_id.as_deref()), ("rpc-reply", Some("7")));
        let data = root.child("data").unwrap();
        assert_eq!(data.leaf("name"), Some("a&A<enabled>"));
        assert!(root.all("enabled").is_empty() && root.all("ok").is_empty() && root.all("e").len() == 1);
        assert_eq!(parse("<a>&lt;x&gt; &amp;</a>").unwrap().text, "<x> &");
        assert_eq!(escaped("<x> &"), "&lt;x&gt; &amp;");
        let deep = "<a>".repeat(100) + &"</a>".repeat(100);
        for bad in [
            "",
            "a",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "</a>",
            "<a>&x;</a>",
            "<a>&lt</a>",
            "<!DOCTYPE a><a/>",
            "<a b='>",
            "< a/>",
            &deep,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "[<>/&;'\"!a\\-\\[\\]?= \u{3042}]{0,60}") {
            let _ = parse(&text);
        }
    }
}
