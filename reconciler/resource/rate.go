package resource

import (
	"fmt"
	"strconv"
	"strings"
)

// rateUnits are those of rates, the largest first.
var rateUnits = []struct {
	name string
	size uint64
}{{"Gbit", 1e9}, {"Mbit", 1e6}, {"Kbit", 1e3}, {"bit", 1}}

// RateText is a rate in bits per second as tc(8) prints it: "100Mbit".
func RateText(rate uint64) string {
	for _, u := range rateUnits {
		if rate >= u.size && rate%u.size == 0 {
			return fmt.Sprintf("%d%s", rate/u.size, u.name)
		}
	}
	return "0bit"
}

// ParseRate is the opposite of RateText.
func ParseRate(text string) (uint64, error) {
	for _, u := range rateUnits {
		if number, ok := strings.CutSuffix(text, u.name); ok {
			n, err := strconv.ParseUint(number, 10, 64)
			return n * u.size, err
		}
	}
	return 0, fmt.Errorf("%q isn't a rate such as 100Mbit", text)
}
