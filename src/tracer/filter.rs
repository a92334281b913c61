//! Which functions a scope wants: by module or by path.
#![forbid(unsafe_code)]

/// Patterns. One with a slash, or that ends in `.py`, is of paths; any other of modules. `*` and `?` stand for any characters
/// and any character; without them a module stands for its submodules, too, and a path for what is below it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Filter {
    /// Empty: everything.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

impl Filter {
    #[must_use]
    pub fn wants(&self, module: &str, path: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, module, path));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

fn matches(pattern: &str, module: &str, path: &str) -> bool {
    let of_paths = pattern.contains('/') || pattern.ends_with(".py");
    let (text, separator) = if of_paths { (path, '/') } else { (module, '.') };
    if pattern.contains(['*', '?']) {
        let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
        return wildcard(&pattern, &text);
    }
    let pattern = pattern.trim_end_matches('/');
    if of_paths && !pattern.starts_with('/') && text.strip_suffix(pattern).is_some_and(|rest| rest.ends_with('/')) {
        return true;
    }
    text.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
}

/// Linear in the text for every star: only the last star met is ever taken back.
fn wildcard(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Filter { include: owned(include), exclude: owned(exclude) }
    }

    /// Names stand for what is below them and for nothing that merely begins alike.
    #[test]
    fn names_and_paths() {
        let app = filter(&["app"], &["app.vendor"]);
        assert!(app.wants("app", "/x/app/__init__.py"));
        assert!(app.wants("app.db", "/x/app/db.py"));
        assert!(!app.wants("apple", "/x/apple.py"));
        assert!(!app.wants("app.vendor.six", "/x/app/vendor/six.py"));
        assert!(filter(&[], &[]).wants("anything", ""));
        assert!(filter(&["/x/app"], &[]).wants("m", "/x/app/a.py"));
        assert!(!filter(&["/x/app"], &[]).wants("m", "/x/app2/a.py"));
        assert!(filter(&["db.py"], &[]).wants("m", "/x/app/db.py"));
        assert!(!filter(&["db.py"], &[]).wants("m", "/x/app/mydb.py"));
    }

    /// Wildcards, among them those that must go back.
    #[test]
    fn wildcards() {
        assert!(filter(&["app.*.views"], &[]).wants("app.users.views", ""));
        assert!(!filter(&["app.*.views"], &[]).wants("app.users.views.x", ""));
        assert!(filter(&["*/site-packages/*"], &[]).wants("m", "/v/lib/site-packages/x/y.py"));
        assert!(filter(&["a*b*c"], &[]).wants("aXbYbZc", ""));
        assert!(!filter(&["a?c"], &[]).wants("ac", ""));
    }
}
