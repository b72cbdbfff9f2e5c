//! Seeded Gaussian noise for embeddings.

/// Standard normal values by seed: SplitMix64 (Steele et al. 2014) and the Box-Muller transform.
#[derive(Debug, Clone)]
pub struct Gauss {
    state: u64,
    spare: Option<f64>,
}

impl Gauss {
    /// Makes a generator from a seed.
    pub fn new(seed: u64) -> Self {
        Gauss {
            state: seed,
            spare: None,
        }
    }

    /// Returns a uniform value in (0, 1].
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((z >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Returns the next value.
    pub fn value(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Returns the standard deviation of all values of some vectors.
pub fn deviation<'a>(vectors: impl Iterator<Item = &'a [f32]>) -> f64 {
    let (mut n, mut sum, mut square) = (0.0, 0.0, 0.0);
    for &x in vectors.flatten() {
        n += 1.0;
        sum += f64::from(x);
        square += f64::from(x) * f64::from(x);
    }
    match n > 0.0 {
        true => (square / n - (sum / n) * (sum / n)).max(0.0).sqrt(),
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal_and_the_same_for_a_seed() {
        let values = |seed| {
            let mut gauss = Gauss::new(seed);
            (0..20_000).map(|_| gauss.value()).collect::<Vec<f64>>()
        };
        assert_eq!(values(7), values(7));
        assert_ne!(values(7)[..8], values(8)[..8]);
        let values: Vec<f32> = values(1).iter().map(|&x| x as f32).collect();
        let mean = values.iter().sum::<f32>() / 20_000.0;
        let within = values.iter().filter(|x| x.abs() < 1.0).count() as f64 / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((deviation([&values[..]].into_iter()) - 1.0).abs() < 0.03);
        assert!((within - 0.6827).abs() < 0.02, "{within}");
    }
}
