//! Texts of the program that are kept with the state.

use super::Optimizer;
use crate::checkpoint::{check_text, Texts, MAX_TEXTS};
use crate::error::{Error, Result};
use crate::memory::reserve;

impl Optimizer {
    /// Keeps a short text of the program under a key, until another one, or `None`, takes its
    /// place: the position of a data loader, the state of a random generator. Every save
    /// writes the texts together with the state, in one file that is complete or not there;
    /// a load replaces them by those of the file, of several files by those of the first.
    /// [`Checkpoint::header`](crate::checkpoint::Checkpoint::header) has them without a load. In the
    /// file they are metadata with the keys `sonew.text.KEY`.
    ///
    /// # Errors
    /// [`Error::TextKey`] for a key that is empty or has a control character;
    /// [`Error::TextNul`]; [`Error::TooManyTexts`] for more than [`MAX_TEXTS`];
    /// [`Error::LiveText`] where the state is in a live file, whose header never changes.
    /// That all texts together are too long for a file is an error of the save:
    /// [`Error::HeaderLength`].
    pub fn set_text(&mut self, key: &str, text: Option<&str>) -> Result<()> {
        self.between_steps()?;
        let Some(text) = text else {
            check_text(key, "")?;
            self.texts.remove(key);
            return Ok(());
        };
        check_text(key, text)?;
        if self.live.is_some() {
            return Err(Error::LiveText {
                key: key.to_owned(),
            });
        }
        let count = self.texts.len() + usize::from(!self.texts.contains_key(key));
        if count > MAX_TEXTS {
            return Err(Error::TooManyTexts { count });
        }
        let mut copy = Vec::new();
        reserve(&mut copy, text.len(), || format!("the text \"{key}\""))?;
        copy.extend_from_slice(text.as_bytes());
        let copy = String::from_utf8(copy).expect("it was a string");
        self.texts.insert(key.to_owned(), copy);
        Ok(())
    }

    /// The text of a key, if there is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// All texts, by their keys.
    pub fn texts(&self) -> &Texts {
        &self.texts
    }
}
