//! Pages to print: one HTML file without anything from elsewhere, with a QR code that any camera reads.

use std::fmt::Write;

use qrcode::{Color, EcLevel, QrCode};

use crate::{EscrowError, Result, sheet::Language};

/// White modules around the code; the standard asks for four.
const QUIET: usize = 4;

/// A QR code (ISO/IEC 18004, error correction M) as SVG, one path, sized by the page.
///
/// # Errors
/// [`EscrowError::BadSheet`] if the text is too long for one code (about 2,300 bytes).
pub fn qr_svg(text: &str) -> Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M)
        .map_err(|error| EscrowError::BadSheet(format!("no QR code holds it: {error}")))?;
    let width = code.width();
    let mut path = String::new();
    for (at, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let _ = write!(path, "M{} {}h1v1h-1z", at % width + QUIET, at / width + QUIET);
        }
    }
    let side = width + 2 * QUIET;
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\">\
         <path fill=\"#fff\" d=\"M0 0h{side}v{side}H0z\"/><path fill=\"#000\" d=\"{path}\"/></svg>"
    ))
}

/// A page for a printer: a heading, lines of text in a fixed width, the QR code of `code`.
///
/// # Errors
/// As [`qr_svg`].
pub fn page(language: Language, heading: &str, text: &str, code: &str) -> Result<String> {
    let tag = match language {
        Language::Japanese => "ja",
        Language::English => "en",
    };
    Ok(format!(
        "<!doctype html>\n<html lang=\"{tag}\"><head><meta charset=\"utf-8\"><title>{heading}</title><style>\n\
         @page {{ size: A4; margin: 18mm }} body {{ font-family: sans-serif; color: #000; background: #fff }}\n\
         h1 {{ font-size: 16pt }} pre {{ font: 11pt/1.5 monospace; white-space: pre-wrap }} svg {{ width: 62mm }}\n\
         </style></head><body>\n<h1>{heading}</h1>\n<pre>{text}</pre>\n{svg}\n</body></html>\n",
        heading = escape(heading),
        text = escape(text),
        svg = qr_svg(code)?,
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
