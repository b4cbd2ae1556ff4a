package boltfile

import "time"

// Aging keeps a clock that jumps from making everything old at once: what is dropped by age is lost for good.
// It is stored with what it guards.
type Aging struct {
	// Last is when time was told last, Since when it began to pass as it should.
	Last  time.Time `json:"last"`
	Since time.Time `json:"since"`
}

// TooOld is Old of the Aging that a bucket keeps under a key, which is stored again where it has changed.
func TooOld(b *Bucket, key []byte, now time.Time, age time.Duration) (before time.Time, err error) {
	var a Aging
	if _, err := b.Load(key, &a); err != nil {
		return time.Time{}, err
	}
	before, changed := a.Old(now, age)
	if changed {
		err = b.Save(key, a)
	}
	return before, err
}

// Old returns the time before which things are too old to keep, zero if none are to be dropped now:
// time that leapt by more than a tenth of the age (in either direction, or because nobody was there to tell)
// is believed when a hundredth of the age has passed since. It reports whether Aging is to be stored again.
func (a *Aging) Old(now time.Time, age time.Duration) (before time.Time, changed bool) {
	leap := now.Sub(a.Last).Abs()
	if a.Last.IsZero() || leap > age/10 {
		a.Since = now
	}
	if changed = a.Last.IsZero() || leap >= age/1000; changed {
		a.Last = now
	}
	if now.Sub(a.Since) < age/100 {
		return time.Time{}, changed
	}
	return now.Add(-age), changed
}
