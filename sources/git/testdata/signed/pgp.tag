object 4fc47b967243b9e6d1deff9476542b475d32c8c2
type commit
tag v1
tagger Ann Example <ann@example.com> 1796077731 +0000

signed with OpenPGP
-----BEGIN PGP SIGNATURE-----

iIYEABYIAC4WIQQOmwrnD+jG1O11MkJ/08tvKzFKfwUCaw34oxAcYW5uQGV4YW1w
bGUuY29tAAoJEH/Ty28rMUp/x3wBAKm16HJr/RnM4DDFwhmTTHCbzkBXlTGGwjki
GImQS3BPAP4mjZXGbviwijviBGTawL6bdidzewBqaSC/vFRyNuvuDw==
=MGf7
-----END PGP SIGNATURE-----
