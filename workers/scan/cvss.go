package scan

import (
	"fmt"
	"math"
	"strings"
)

// The base score of CVSS 3.0 and 3.1, as section 7 and appendix A of the
// specification at first.org define it; the temporal and environmental
// metrics of a vector do not take part in it.

var cvssWeights = map[string]map[string]float64{
	"AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
	"AC": {"L": 0.77, "H": 0.44},
	"PR": {"N": 0.85, "L": 0.62, "H": 0.27},
	"UI": {"N": 0.85, "R": 0.62},
	"S":  {"U": 0, "C": 1},
	"C":  {"H": 0.56, "L": 0.22, "N": 0},
	"I":  {"H": 0.56, "L": 0.22, "N": 0},
	"A":  {"H": 0.56, "L": 0.22, "N": 0},
}

// cvssScore is the base score, 0 to 10, of a vector such as
// "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H".
func cvssScore(vector string) (float64, error) {
	version, rest, _ := strings.Cut(vector, "/")
	if version != "CVSS:3.1" && version != "CVSS:3.0" {
		return 0, fmt.Errorf("%q is not a CVSS 3 vector", line(vector))
	}
	m := map[string]string{}
	for part := range strings.SplitSeq(rest, "/") {
		name, value, _ := strings.Cut(part, ":")
		if _, twice := m[name]; twice {
			return 0, fmt.Errorf("%q has the metric %s twice", line(vector), name)
		}
		m[name] = value
	}
	w := map[string]float64{}
	for name, values := range cvssWeights {
		v, ok := values[m[name]]
		if !ok {
			return 0, fmt.Errorf("%q has no valid metric %s", line(vector), name)
		}
		w[name] = v
	}
	changed := m["S"] == "C"
	if changed { // what was needed weighs less when the effect goes beyond
		switch m["PR"] {
		case "L":
			w["PR"] = 0.68
		case "H":
			w["PR"] = 0.5
		}
	}
	iss := 1 - (1-w["C"])*(1-w["I"])*(1-w["A"])
	impact := 6.42 * iss
	if changed {
		impact = 7.52*(iss-0.029) - 3.25*math.Pow(iss-0.02, 15)
	}
	if impact <= 0 {
		return 0, nil
	}
	score := impact + 8.22*w["AV"]*w["AC"]*w["PR"]*w["UI"]
	if changed {
		score *= 1.08
	}
	return roundUp(min(score, 10)), nil
}

// roundUp is the smallest number with one decimal that is not below x, with
// the specification's care for the representation of x.
func roundUp(x float64) float64 {
	n := int(math.Round(x * 100000))
	if n%10000 == 0 {
		return float64(n) / 100000
	}
	return float64(n/10000+1) / 10
}
