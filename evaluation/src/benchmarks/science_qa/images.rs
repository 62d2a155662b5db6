//! Which questions of ScienceQA's test split have an image.

/// The position in the test split, from 1, of its `number`-th question with an image, from 1.
///
/// ScienceQA-IMG holds these questions only, in the same order, and has no other id.
pub(super) fn position_of_image(number: u64) -> Option<u64> {
    let mut seen = 0;
    for (position, has_image) in (1..).zip(bits()) {
        seen += u64::from(has_image);
        if has_image && seen == number {
            return Some(position);
        }
    }
    None
}

fn bits() -> impl Iterator<Item = bool> {
    let digits = HAS_IMAGE.chars().filter_map(|digit| digit.to_digit(16));
    digits.flat_map(|digit| [8, 4, 2, 1].map(|bit| digit & bit != 0))
}

/// A bit for each question of the test split, the highest of each digit first: whether `data/captions.json` of
/// `lupantech/ScienceQA` has a caption for it. It captions exactly the questions whose `image` in `problems.json` is not null.
const HAS_IMAGE: &str = "\
    6467f58439346191d65b8daa40de281ce0eedb7ce19a4ec0a621bed0022a51fced9ea11e5501703960054f942e6cd8368fd6b590\
    26fe413007b5f5d0794a362f746ca50aee07a6ceceefa55bbfbc549671e0a8b1b1cd4b2bd4bd0fc53ad88602bdfb3c981548165b\
    746798d3a89fa51962b36bd36613db41bf9279101d514128a6a59414ba93cf57e0643e355f04a77ba21a1bc86bde20bcc9c00b69\
    e6d6fbafd6e2e3f9aa0803071f063800fc896b2b5724af7084a4238798511c0ee612c984941e71b635620f38078382e9365f2727\
    27125272c8515409cc457a115f480e355307f70ab91397b11d990ca0d40815a3172004b2f6c92ac6e38aa0e961b72d849794dc5c\
    c7fa5fcc2184779e3c60c0c2adc7dcc2b5c6c3dc3017a362b04946a205757295f957a6f9a6102b9d6532e9ece71e58004e83382e\
    94bd495b1d304544a4fd0f8f3a2e70cd839ec6b8d5520f61df86f73aa5a70c57756b9a88c54535bbe647d4831691187cbcd28c66\
    cfe04288ce8df354cb0a85d1435f2b766e666c76694358252dae50ec0fd5c43c9122a638f9179b3a47b43286760c92f21f3205fe\
    208507c8e501001270c808943e84082049811c193c2475e5c203b03e396a0d075c0ff04aca96952ad77d490bc32c246269e59de9\
    2d110bdb96d05e67028be8b43cbfda6e04efc1760b6f4481ec1791a19e15ac58454691481cd985d8cda633a1a9ce771c8624dac5\
    07b23f8d09075ed5e4f70";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_questions_as_published_have_an_image() {
        assert_eq!(bits().filter(|bit| *bit).count(), 2017);
        // `[i for i, id in enumerate(splits["test"], 1) if id in captions]`
        let positions = [(1, 2), (2, 3), (3, 6), (4, 10), (5, 11), (2015, 4238), (2016, 4239), (2017, 4240)];
        for (number, position) in positions {
            assert_eq!(position_of_image(number), Some(position));
        }
        assert_eq!(position_of_image(0), None);
        assert_eq!(position_of_image(2018), None);
    }
}
