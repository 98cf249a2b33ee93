//! Texts of the program that are kept with the state: the position of a data loader, the
//! state of a random generator.

use std::collections::BTreeMap;
use std::io::Read;

use super::json::RawText;
use super::Header;
use crate::error::{Error, Result};
use crate::memory::{ask, reserve, OF_FILES};

/// Texts by their keys.
pub type Texts = BTreeMap<String, String>;

/// The keys of texts in the metadata begin with this, after the library's own prefix.
pub(super) const PREFIX: &str = "text.";

/// The most texts that a file can have.
pub const MAX_TEXTS: usize = 1000;

/// Refuses a key or a text that no file can have, or that C could not be told.
pub(crate) fn check_text(key: &str, text: &str) -> Result<()> {
    if key.is_empty() || key.chars().any(char::is_control) {
        let key = key.to_owned();
        return Err(Error::TextKey { key });
    }
    if text.contains('\0') {
        let key = key.to_owned();
        return Err(Error::TextNul { key });
    }
    Ok(())
}

pub(crate) fn check_texts(texts: &Texts) -> Result<()> {
    check_count(texts.len())?;
    let mut texts = texts.iter();
    texts.try_for_each(|(key, text)| check_text(key, text))
}

fn check_count(count: usize) -> Result<()> {
    match count <= MAX_TEXTS {
        true => Ok(()),
        false => Err(Error::TooManyTexts { count }),
    }
}

/// Sets aside what the header of a file with these texts takes, in which each of them is
/// a piece of a text that grows.
pub(crate) fn ask_for_texts(texts: &Texts) -> Result<()> {
    let bytes = texts.iter().map(|(key, text)| key.len() + text.len() + 256);
    ask(16 * bytes.sum::<usize>(), || OF_FILES.to_owned())
}

/// The texts of a file, which are copied once all are known to be few.
pub(super) fn read(
    found: Vec<(String, RawText<'_>)>,
) -> Result<std::result::Result<Texts, String>> {
    let mut texts = Texts::new();
    for (key, raw) in found {
        let mut bytes = Vec::new();
        reserve(&mut bytes, raw.length(), || OF_FILES.to_owned())?;
        let read = raw.reader().read_to_end(&mut bytes);
        let text = read.ok().and_then(|_| String::from_utf8(bytes).ok());
        let Some(text) = text else {
            return Ok(Err(format!("the text {key:?} is not UTF-8")));
        };
        if texts.insert(key.clone(), text).is_some() {
            return Ok(Err(format!("two texts have the key {key:?}")));
        }
    }
    Ok(Ok(texts))
}

/// The texts that are the same in all files.
pub(super) fn common<'a>(mut files: impl Iterator<Item = &'a Header>) -> Texts {
    let mut common = files.next().map(|file| file.texts.clone());
    for file in files {
        if let Some(common) = &mut common {
            common.retain(|key, text| file.texts.get(key) == Some(text));
        }
    }
    common.unwrap_or_default()
}
