//! A document as one HTML file.

use std::fmt::Write;

use crate::{Block, Document};

const STYLE: &str = "\
:root{color-scheme:light}\
body{font:16px/1.6 'BIZ UDGothic','Noto Sans JP','Noto Sans CJK JP',sans-serif;color:#111;background:#fff;\
margin:2rem auto;max-width:60rem;padding:0 1rem}\
h1{font-size:1.6rem;margin:0}h2{font-size:1.25rem;border-bottom:2px solid #111;margin-top:2rem}\
h3{font-size:1.05rem;margin-bottom:.3rem}.subtitle{margin:.2rem 0 1.5rem}\
table{border-collapse:collapse;width:100%;margin:.7rem 0}th,td{border:1px solid #555;padding:.3rem .5rem;\
text-align:left;vertical-align:top;overflow-wrap:anywhere}th{background:#eee}\
pre{background:#f3f3f3;border:1px solid #999;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere;\
font:14px/1.5 monospace}\
.notice{border-left:.5rem solid #555;padding:.3rem .7rem;margin:.5rem 0;font-weight:bold}\
.good{border-color:#0a6b2d}.attention{border-color:#8a5a00}.bad{border-color:#b00020}\
.boxes{display:flex;gap:1rem;margin:1.5rem 0}.boxes div{border:1px solid #111;width:8rem;height:6rem;padding:.3rem}\
footer{margin-top:2rem;border-top:1px solid #999;font-size:.85rem}\
@media print{@page{size:A4;margin:15mm}body{font-size:11pt;margin:0;max-width:none;padding:0}\
.page{break-before:page}h2,h3{break-after:avoid}tr,pre,.notice,.boxes{break-inside:avoid}}";

pub(crate) fn render(document: &Document) -> String {
    let mut html = String::with_capacity(16 << 10);
    let title = escape(&document.title);
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p class=\"subtitle\">{}</p>\n",
        document.language.tag(),
        escape(&document.subtitle),
    );
    for block in &document.blocks {
        self::block(&mut html, block);
    }
    if !document.footer.is_empty() {
        let _ = writeln!(html, "<footer>{}</footer>", escape(&document.footer));
    }
    html.push_str("</body>\n</html>\n");
    html
}

/// The same for each item, one after the other.
fn each<T>(items: &[T], mut write: impl FnMut(&mut String, &T)) -> String {
    let mut html = String::new();
    for item in items {
        write(&mut html, item);
    }
    html
}

fn element(html: &mut String, tag: &str, attributes: &str, text: &str) {
    let _ = write!(html, "<{tag}{attributes}>{}</{tag}>", escape(text));
}

fn block(html: &mut String, block: &Block) {
    let _ = match block {
        Block::Heading { text, new_page } => {
            let class = if *new_page { " class=\"page\"" } else { "" };
            writeln!(html, "<h2{class}>{}</h2>", escape(text))
        }
        Block::Sub(text) => writeln!(html, "<h3>{}</h3>", escape(text)),
        Block::Paragraph(text) => writeln!(html, "<p>{}</p>", escape(text)),
        Block::Notice(tone, text) => {
            writeln!(html, "<p class=\"notice {}\">{} {}</p>", tone.class(), tone.sign(), escape(text))
        }
        Block::List { numbered, items } => {
            let tag = if *numbered { "ol" } else { "ul" };
            let items = each(items, |html, item| element(html, "li", "", item));
            writeln!(html, "<{tag}>{items}</{tag}>")
        }
        Block::Commands(lines) => writeln!(html, "<pre>{}</pre>", escape(&lines.join("\n"))),
        Block::Table { head, rows } => {
            let head = each(head, |html, cell| element(html, "th", " scope=\"col\"", cell));
            let rows = each(rows, |html, row| {
                let cells = each(row, |html, cell| element(html, "td", "", cell));
                let _ = writeln!(html, "<tr>{cells}</tr>");
            });
            writeln!(html, "<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>")
        }
        Block::Facts(facts) => {
            let rows = each(facts, |html, (name, value)| {
                html.push_str("<tr>");
                element(html, "th", " scope=\"row\"", name);
                element(html, "td", "", value);
                html.push_str("</tr>\n");
            });
            writeln!(html, "<table>\n{rows}</table>")
        }
        Block::Boxes(words) => {
            let boxes = each(words, |html, word| element(html, "div", "", word));
            writeln!(html, "<div class=\"boxes\">{boxes}</div>")
        }
    };
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}
