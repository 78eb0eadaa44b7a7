//! tantivy: texts indexed in memory, and searched.

use benches::client::Client;
use benches::loads::Load;
use benches::rng::Rng;
use tantivy::collector::{Count, TopDocs};
use tantivy::query::TermQuery;
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, STORED, STRING, Schema, TEXT, Value,
};
use tantivy::{Index, IndexWriter, TantivyDocument, Term};

/// Texts to be indexed, anew in each step.
pub struct Documents {
    schema: Schema,
    name: Field,
    body: Field,
    size: Field,
    texts: Vec<String>,
    /// Words that are looked for, and in how many texts each is.
    wanted: Vec<(String, usize)>,
}

impl Documents {
    /// So many texts of 20 to 120 words, some of them frequent.
    pub fn new(count: usize) -> Self {
        let mut rng = Rng::new(5);
        let mut word = || {
            let number = rng.below(8000).min(rng.below(8000)).min(rng.below(8000));
            format!("w{:x}", number * 40_503 % 65_536)
        };
        let mut texts = Vec::new();
        for text in 0..count {
            let words: Vec<_> = (0..20 + text * 37 % 101).map(|_| word()).collect();
            texts.push(words.join(" "));
        }
        let mut schema = Schema::builder();
        let name = schema.add_text_field("name", STRING | STORED);
        let body = schema.add_text_field("body", TEXT | STORED);
        let size = schema.add_u64_field("size", FAST | INDEXED);
        let wanted = (0..40).map(|number: usize| format!("w{:x}", number * 25 * 40_503 % 65_536));
        let in_texts = |word: &String| {
            texts.iter().filter(|text| text.split(' ').any(|other| other == word)).count()
        };
        let wanted: Vec<_> = wanted
            .map(|word| {
                let count = in_texts(&word);
                (word, count)
            })
            .collect();
        assert!(wanted.iter().any(|(_, count)| *count > 0), "no word is found");
        Documents { schema: schema.build(), name, body, size, texts, wanted }
    }

    fn index(&self) -> tantivy::Result<Index> {
        let index = Index::create_in_ram(self.schema.clone());
        let mut writer: IndexWriter = index.writer_with_num_threads(2, 40 << 20)?;
        for (number, text) in self.texts.iter().enumerate() {
            let mut document = TantivyDocument::new();
            document.add_text(self.name, format!("text {number}"));
            document.add_text(self.body, text);
            document.add_u64(self.size, text.len() as u64);
            writer.add_document(document)?;
        }
        writer.commit()?;
        writer.wait_merging_threads()?;
        Ok(index)
    }

    fn search(&self, index: &Index) -> tantivy::Result<()> {
        let searcher = index.reader()?.searcher();
        assert_eq!(searcher.num_docs(), self.texts.len() as u64);
        for (word, count) in &self.wanted {
            let term = Term::from_field_text(self.body, word);
            let query = TermQuery::new(term, IndexRecordOption::WithFreqs);
            let top = TopDocs::with_limit(10).order_by_score();
            let (found, best) = searcher.search(&query, &(Count, top))?;
            assert_eq!(found, *count, "{word} was found in other texts");
            for (_, address) in best {
                let document: TantivyDocument = searcher.doc(address)?;
                let text = document.get_first(self.body).and_then(|value| value.as_str());
                let is_in = text.is_some_and(|text| text.split(' ').any(|other| other == word));
                assert!(is_in, "{word} is not in {text:?}");
            }
        }
        Ok(())
    }
}

impl Load for Documents {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let index = self.index().expect("memory only");
        self.search(&index).expect("it was indexed");
        1
    }
    fn finish(&mut self, _client: &mut Client) {}
}
