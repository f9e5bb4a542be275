package workflows

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// secretKeys are the ends of names under which people keep secrets.
var secretKeys = regexp.MustCompile(`(?i)(^|[^a-z])(password|passwd|pwd|secret|token|api[-_]?key|private[-_]?key|access[-_]?key|credentials?)$|[a-z](Password|Secret|Token|ApiKey|PrivateKey|AccessKey)$`)

// secretValues are values that are secrets whatever they stand under.
var secretValues = regexp.MustCompile(`^(ghp_|gho_|ghs_|github_pat_|glpat-|xox[abprs]-|sk_live_|AKIA[0-9A-Z]{12}|-----BEGIN [A-Z ]*PRIVATE KEY-----|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.)`)

// clear refuses secrets that are written in clear below a path, whose value is
// plain or data.
func (k *check) clear(path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for _, name := range names(v) {
			if text, ok := v[name].(string); ok && secretKeys.MatchString(name) && secretLooking(text) {
				k.inClear(Join(path, name), name+" is a secret written in clear")
				continue
			}
			k.clear(Join(path, name), v[name])
		}
	case []any:
		for i := range v {
			k.clear(index(path, i), v[i])
		}
	case string:
		if secretValues.MatchString(v) || secretURL(v) {
			k.inClear(path, "this is a secret written in clear")
		}
	}
}

func (k *check) inClear(path, message string) {
	k.value(path, "secret-in-clear", "keep it among the environment's secrets, as env:NAME or file:PATH, and name it under secrets", "%s", message)
}

// secretLooking tells a value from a reference to one and from what only says
// where it is.
func secretLooking(text string) bool {
	return len(text) >= 6 && !strings.Contains(text, "${{") && !strings.HasPrefix(text, "/") && !strings.Contains(text, ":") && !strings.ContainsAny(text, " \t")
}

// withSecrets does it for the inputs of a task.
func (k *check) withSecrets(path string, with map[string]*Data) {
	for _, name := range names(with) {
		if d := with[name]; d != nil {
			k.clear(path, map[string]any{name: d.Value})
		}
	}
}

// chatSchemes are addresses of chats, whose user or host is a token.
var chatSchemes = []string{"discord", "gotify", "join", "mattermost", "opsgenie", "pushbullet", "pushover", "rocketchat", "slack", "teams", "telegram", "zulip"}

// secretURL reports whether an address holds a password or a token.
func secretURL(text string) bool {
	scheme, _, ok := strings.Cut(text, "://")
	if !ok || len(text) > 4096 || strings.Contains(text, "${{") {
		return false
	}
	if slices.Contains(chatSchemes, scheme) {
		return true
	}
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return false
	}
	password, set := u.User.Password()
	return set && password != "" && !strings.HasPrefix(password, "$")
}
