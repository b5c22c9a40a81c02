//! A document as plain text, in lines that a rescue console shows and a printer takes.

use std::fmt::Write;

use crate::{Block, Document};

pub(crate) fn render(document: &Document) -> String {
    let mut text = String::with_capacity(8 << 10);
    let _ = write!(text, "{}\n{}\n{}\n", document.title, "=".repeat(72), document.subtitle);
    for block in &document.blocks {
        self::block(&mut text, block);
    }
    if !document.footer.is_empty() {
        let _ = write!(text, "\n{}\n{}\n", "-".repeat(72), document.footer);
    }
    text
}

fn block(text: &mut String, block: &Block) {
    let _ = match block {
        Block::Heading { text: words, .. } => write!(text, "\n\n{words}\n{}\n", "-".repeat(72)),
        Block::Sub(words) => write!(text, "\n[{words}]\n"),
        Block::Paragraph(words) => write!(text, "\n{words}\n"),
        Block::Notice(tone, words) => write!(text, "\n{} {words}\n", tone.sign()),
        Block::List { numbered, items } => {
            text.push('\n');
            for (at, item) in items.iter().enumerate() {
                let _ =
                    if *numbered { writeln!(text, "{}. {item}", at + 1) } else { writeln!(text, "- {item}") };
            }
            Ok(())
        }
        Block::Commands(lines) => {
            text.push('\n');
            for line in lines {
                let _ = writeln!(text, "    {line}");
            }
            Ok(())
        }
        // One row after the other: a table that is wider than the console cannot be read.
        Block::Table { head, rows } => {
            for row in rows {
                text.push('\n');
                for (name, cell) in head.iter().zip(row) {
                    let _ = writeln!(text, "  {name}: {cell}");
                }
            }
            Ok(())
        }
        Block::Facts(facts) => {
            text.push('\n');
            for (name, value) in facts {
                let _ = writeln!(text, "  {name}: {value}");
            }
            Ok(())
        }
        Block::Boxes(words) => {
            let boxes: Vec<String> = words.iter().map(|word| format!("{word}: ______________")).collect();
            write!(text, "\n{}\n", boxes.join("   "))
        }
    };
}
