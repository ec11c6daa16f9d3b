//! One layer of the configuration: a file, the environment, the command line. Read and checked on its own, then
//! handed to the `config` crate, which lays them over each other.

use super::{
    Config, ConfigError, LoadOptions, Mistake, Place,
    keys::{self, POLICY_TABLE, Setting, TABLES},
};
use config::{Map, Source, Value, ValueKind};
use dosvc_policy::{POLICIES, Policy, Provider, RawValue, nearest, shown_key};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

/// A configuration file is a few pages; what is larger is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What all our variables begin with.
const VARIABLE_PREFIX: &str = "DOSVC_";

/// What one layer sets, every value checked.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Who set it.
    pub(crate) provider: Provider,
    /// Path of the key, value.
    values: Vec<(String, RawValue)>,
}

/// Collects one layer's values and mistakes.
struct Reader<'a> {
    layer: Layer,
    /// The spelling under which each key was met.
    seen: HashMap<String, String>,
    errors: &'a mut Vec<ConfigError>,
    /// What values are tried on.
    scratch: Config,
}

impl<'a> Reader<'a> {
    fn new(provider: Provider, errors: &'a mut Vec<ConfigError>) -> Self {
        Self {
            layer: Layer {
                provider,
                values: Vec::new(),
            },
            seen: HashMap::new(),
            errors,
            scratch: Config::defaults(&LoadOptions::default()),
        }
    }

    fn mistake(&mut self, place: Place, mistake: Mistake) {
        self.errors.push(ConfigError { place, mistake });
    }

    /// Takes a value, or says what is wrong with it.
    fn take(&mut self, setting: Setting, spelling: &str, raw: RawValue, place: Place) {
        let key = setting.path();
        if self.layer.provider == Provider::Managed && key.starts_with("managed.") {
            return self.mistake(place, Mistake::NotInManaged { key });
        }
        if let Some(first) = self.seen.insert(key.clone(), spelling.to_owned()) {
            let second = spelling.to_owned();
            return self.mistake(place, Mistake::Twice { key, first, second });
        }
        match self.scratch.apply(setting, &raw, &self.layer.provider) {
            Ok(()) => self.layer.values.push((key, raw)),
            Err(mistake) => self.mistake(place, mistake),
        }
    }

    /// Takes one entry of a file's root, which should be a table that we know.
    fn take_table(&mut self, name: &Key<'_>, value: &DeValue<'_>, place: &dyn Fn(usize) -> Place) {
        let at = place(name.span().start);
        let name = name.get_ref().as_ref();
        if !TABLES.iter().any(|(table, _)| *table == name) {
            let mistake = Mistake::UnknownKey {
                key: shown_key(name),
                nearest: keys::table_meant(name),
            };
            return self.mistake(at, mistake);
        }
        let DeValue::Table(table) = value else {
            let mistake = Mistake::NotAllowed {
                key: name.to_owned(),
                value: raw_value(value).to_string(),
                allowed: "a table".to_owned(),
            };
            return self.mistake(at, mistake);
        };
        for (key, value) in in_order(table) {
            let at = place(key.span().start);
            let key = key.get_ref().as_ref();
            match Setting::find(name, key) {
                Some(setting) => self.take(setting, key, raw_value(value.get_ref()), at),
                None => {
                    let mistake = Mistake::UnknownKey {
                        key: format!("{name}.{}", shown_key(key)),
                        nearest: keys::meant(name, key),
                    };
                    self.mistake(at, mistake);
                }
            }
        }
    }
}

impl Layer {
    /// Reads a file. What it sets is `None` when it cannot be read at all.
    pub(crate) fn from_file(path: &Path, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let text = match read_file(path) {
            Ok(text) => text,
            Err(error) => {
                errors.push(ConfigError {
                    place: Place::File(path.to_owned()),
                    mistake: Mistake::Unreadable(error.to_string()),
                });
                return None;
            }
        };
        let provider = Provider::File(path.to_owned());
        Some(Self::from_text(path, &text, provider, errors))
    }

    /// Reads a file's text. After an error of syntax the rest is read as far as it can be made out.
    pub(super) fn from_text(
        path: &Path,
        text: &str,
        provider: Provider,
        errors: &mut Vec<ConfigError>,
    ) -> Self {
        let mut found = Vec::new();
        let mut reader = Reader::new(provider, &mut found);
        let place = |at: usize| {
            let before = &text.as_bytes()[..at.min(text.len())];
            let line = 1 + before.iter().filter(|b| **b == b'\n').count();
            Place::Line(path.to_owned(), line)
        };
        let (root, syntax) = DeTable::parse_recoverable(text);
        let mut broken = Vec::new();
        for error in &syntax {
            let at = place(error.span().map_or(0, |span| span.start));
            let message = error.message().replace('\n', "; ");
            reader.mistake(at.clone(), Mistake::Syntax(message));
            broken.push(at);
        }
        for (name, value) in in_order(root.get_ref()) {
            reader.take_table(name, value.get_ref(), &place);
        }
        let layer = reader.layer;
        // What was made out of a broken line is the parser's guess: only the break itself is reported.
        found.retain(|error| {
            matches!(error.mistake, Mistake::Syntax(_)) || !broken.contains(&error.place)
        });
        found.sort_by_key(|error| match error.place {
            Place::Line(_, line) => line,
            _ => 0,
        });
        errors.append(&mut found);
        layer
    }

    /// Reads the environment.
    pub(crate) fn from_environment(
        environment: &BTreeMap<OsString, OsString>,
        errors: &mut Vec<ConfigError>,
    ) -> Self {
        let mut reader = Reader::new(Provider::Environment, errors);
        for (name, rest, value) in ours(environment) {
            let place = Place::Variable(name.to_owned());
            let setting = match rest.split_once("__") {
                Some((table, key)) => match Setting::find(table, key) {
                    Some(setting) => setting,
                    None => {
                        let nearest = keys::meant(table, key).map(|near| {
                            let path = match near.contains('.') {
                                true => near,
                                false => format!("{table}.{near}"),
                            };
                            let variable = path.replace('.', "__").to_uppercase();
                            format!("{VARIABLE_PREFIX}{variable}")
                        });
                        let key = format!("{}.{}", shown_key(table), shown_key(key));
                        reader.mistake(place, Mistake::UnknownKey { key, nearest });
                        continue;
                    }
                },
                // The short form is for policies; what else is named like that is not ours.
                None => match Policy::find(&rest) {
                    Some(policy) => Setting::Policy(policy),
                    None => continue,
                },
            };
            match value.to_str() {
                Some(text) => reader.take(setting, name, RawValue::Untyped(text.to_owned()), place),
                None => reader.mistake(place, Mistake::Unreadable("it is not UTF-8".to_owned())),
            }
        }
        reader.layer
    }

    /// Reads what the command line sets: `daemon.listen`, or a policy with or without its table.
    pub(crate) fn from_overrides(
        overrides: &[(String, String)],
        errors: &mut Vec<ConfigError>,
    ) -> Self {
        let mut reader = Reader::new(Provider::Command, errors);
        for (name, value) in overrides {
            let (table, key) = name.split_once('.').unwrap_or((POLICY_TABLE, name));
            match Setting::find(table, key) {
                Some(setting) => {
                    let raw = RawValue::Untyped(value.clone());
                    reader.take(setting, name, raw, Place::CommandLine);
                }
                None => reader.mistake(
                    Place::CommandLine,
                    Mistake::UnknownKey {
                        key: format!("{}.{}", shown_key(table), shown_key(key)),
                        nearest: keys::meant(table, key),
                    },
                ),
            }
        }
        reader.layer
    }
}

/// The files to read, in order; the managed one is not among them.
pub(crate) fn files(options: &LoadOptions, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let main = options.main_file();
    // A file that the caller named must be there; what is wrong with it is said when it is read.
    if options.config_file.is_some() || !matches!(fs::exists(main), Ok(false)) {
        files.push(main.to_owned());
    }
    let folder = folder_of(main).join("conf.d");
    match conf_d(&folder) {
        Ok(found) => files.extend(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => errors.push(ConfigError {
            place: Place::File(folder),
            mistake: Mistake::Unreadable(error.to_string()),
        }),
    }
    files
}

/// The folder that a file lies in.
pub(super) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The `*.toml` files of a folder, hidden ones left out, sorted by name.
pub(super) fn conf_d(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension() == Some(OsStr::new("toml")) && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> io::Result<String> {
    read_open(fs::File::open(path)?)
}

/// The text of an open file.
pub(super) fn read_open(file: fs::File) -> io::Result<String> {
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Variables that are ours by their prefix: name, lower-case rest, value.
fn ours(
    environment: &BTreeMap<OsString, OsString>,
) -> impl Iterator<Item = (&str, String, &OsString)> {
    environment.iter().filter_map(|(name, value)| {
        let name = name.to_str()?;
        let rest = name.strip_prefix(VARIABLE_PREFIX)?;
        Some((name, rest.to_lowercase(), value))
    })
}

/// Warnings about variables that are not ours but look as if a policy was meant.
pub(crate) fn misspelt(environment: &BTreeMap<OsString, OsString>) -> Vec<String> {
    ours(environment)
        .filter(|(_, rest, _)| !rest.contains("__") && Policy::find(rest).is_none())
        .filter_map(|(name, rest, _)| {
            let near = nearest(&rest, POLICIES.iter().map(|spec| spec.key))?.to_uppercase();
            Some(format!(
                "environment variable {name} sets nothing; did you mean {VARIABLE_PREFIX}{near}?"
            ))
        })
        .collect()
}

/// A key with its place in the file.
type Key<'i> = Spanned<DeString<'i>>;

/// A table's entries in the order of the file.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Key<'i>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn raw_value(value: &DeValue<'_>) -> RawValue {
    match value {
        DeValue::String(text) => RawValue::Text(text.clone().into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => RawValue::Integer(number),
            Err(_) => RawValue::Other(number.to_string()),
        },
        DeValue::Float(number) => RawValue::Other(number.to_string()),
        DeValue::Boolean(flag) => RawValue::Boolean(*flag),
        DeValue::Datetime(time) => RawValue::Other(time.to_string()),
        DeValue::Array(items) => {
            RawValue::List(items.iter().map(|item| raw_value(item.get_ref())).collect())
        }
        DeValue::Table(table) => RawValue::Table(
            in_order(table)
                .into_iter()
                .map(|(key, value)| (key.get_ref().to_string(), raw_value(value.get_ref())))
                .collect(),
        ),
    }
}

/// A layer with its number, by which a merged value is led back to it.
#[derive(Clone, Debug)]
pub(crate) struct Numbered(pub(crate) usize, pub(crate) Layer);

impl Source for Numbered {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let origin = self.0.to_string();
        let values = self.1.values.iter();
        Ok(values
            .map(|(path, raw)| (path.clone(), to_value(raw, &origin)))
            .collect())
    }
}

fn to_value(raw: &RawValue, origin: &String) -> Value {
    let kind = match raw {
        RawValue::Integer(number) => ValueKind::I64(*number),
        RawValue::Boolean(flag) => ValueKind::Boolean(*flag),
        RawValue::Text(text) | RawValue::Untyped(text) | RawValue::Other(text) => {
            ValueKind::String(text.clone())
        }
        RawValue::List(items) => {
            ValueKind::Array(items.iter().map(|item| to_value(item, origin)).collect())
        }
        RawValue::Table(entries) => ValueKind::Table(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), to_value(value, origin)))
                .collect(),
        ),
    };
    Value::new(Some(origin), kind)
}

fn to_raw(value: &Value, untyped: bool) -> RawValue {
    match &value.kind {
        ValueKind::I64(number) => RawValue::Integer(*number),
        ValueKind::Boolean(flag) => RawValue::Boolean(*flag),
        ValueKind::String(text) if untyped => RawValue::Untyped(text.clone()),
        ValueKind::String(text) => RawValue::Text(text.clone()),
        ValueKind::Array(items) => {
            RawValue::List(items.iter().map(|item| to_raw(item, untyped)).collect())
        }
        ValueKind::Table(table) => RawValue::Table(
            table
                .iter()
                .map(|(key, value)| (key.clone(), to_raw(value, untyped)))
                .collect(),
        ),
        // Made by none of our layers.
        other => RawValue::Other(other.to_string()),
    }
}

/// The number of the layer that a merged value comes from. A table has no origin of its own once it is merged, its
/// values have.
fn layer_of(value: &Value) -> Option<usize> {
    match (&value.kind, value.origin()) {
        (_, Some(origin)) => origin.parse().ok(),
        (ValueKind::Table(table), None) => table.values().find_map(layer_of),
        _ => None,
    }
}

/// What stands on top after merging: setting, value and the number of its layer.
pub(crate) fn settings(merged: &Value, layers: &[Layer]) -> Vec<(Setting, RawValue, usize)> {
    let ValueKind::Table(tables) = &merged.kind else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (table, values) in tables {
        let ValueKind::Table(values) = &values.kind else {
            continue;
        };
        for (key, value) in values {
            if let Some(setting) = Setting::find(table, key)
                && let Some(at) = layer_of(value).filter(|at| *at < layers.len())
            {
                let untyped = matches!(
                    layers[at].provider,
                    Provider::Environment | Provider::Command
                );
                found.push((setting, to_raw(value, untyped), at));
            }
        }
    }
    found
}
